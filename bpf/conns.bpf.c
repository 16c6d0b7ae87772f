// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * Concurrent connections, counted from the sockets: the gate at the ACK that ends a handshake, the state changes
 * behind it, and the sockets that were open before. See bpf/README.md.
 */

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi.h"
#include "frozen.h"
#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "reread.h"
#include "chain.h"
#include "lists.h"
#include "service.h"
#include "limits.h"
#include "many.h"
#include "account.h"
#include "conns_table.h"
#include "conns_pending.h"
#include "conns_claims.h"
#include "conns_note.h"
#include "conns_held.h"
#include "conns_gate.h"
#include "conns_sock.h"
#include "conns_state.h"
#include "conns_seed.h"
#include "conns_shown.h"

char _license[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup_skb/ingress")
int synward_gate(struct __sk_buff *ctx)
{
	struct conn_note *note = note_of(CONN_GATE);
	struct bpf_sock *sk = ctx->sk;

	if (!note)
		return GATE_PASS;
	if (note->token)
		note_return(note);
	if (!sk || (sk->state != BPF_TCP_LISTEN && sk->state != BPF_TCP_SYN_RECV))
		return GATE_PASS;
	return gate_judge(ctx, note);
}

/* A program that is interrupted by itself is left out by the kernel, so two copies of this one run. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(synward_state, struct sock *sk, int before, int after)
{
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (after == TCP_STATE_CLOSE)
		state_closed(sk);
	else if (before == TCP_STATE_SYN_RECV && after == TCP_STATE_ESTABLISHED)
		state_opened(sk);
	return 0;
}

SEC("iter/tcp")
int synward_seed(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;

	return skc ? seed_socket(skc) : 0;
}

SEC("iter/bpf_sk_storage_map")
int synward_shown(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct conn_held *held = ctx->value;
	struct sock *sk = ctx->sk;

	return sk && held_counts(held) ? show_socket(ctx->meta->seq, sk, held) : 0;
}
