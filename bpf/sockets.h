/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The socket that would take a packet here. Reads only. */

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "packet.h"

static __always_inline void fill_tuple(struct bpf_sock_tuple *to, const struct packet *p)
{
	if (p->src.family == 4) {
		to->ipv4.saddr = p->src.word[0];
		to->ipv4.daddr = p->dst.word[0];
		to->ipv4.sport = bpf_htons(p->sport);
		to->ipv4.dport = bpf_htons(p->dport);
		return;
	}
	__builtin_memcpy(to->ipv6.saddr, p->src.word, sizeof(to->ipv6.saddr));
	__builtin_memcpy(to->ipv6.daddr, p->dst.word, sizeof(to->ipv6.daddr));
	to->ipv6.sport = bpf_htons(p->sport);
	to->ipv6.dport = bpf_htons(p->dport);
}

static __always_inline __u32 tuple_bytes(const struct packet *p)
{
	return p->src.family == 4 ? sizeof(((struct bpf_sock_tuple *)0)->ipv4) :
				    sizeof(((struct bpf_sock_tuple *)0)->ipv6);
}

/* Its state, BPF_TCP_LISTEN where no connection and no request has the packet's addresses and ports; 0: there is none. */
static __always_inline int socket_state(void *ctx, const struct packet *p)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	int state;

	fill_tuple(&tuple, p);
	sk = bpf_skc_lookup_tcp(ctx, &tuple, tuple_bytes(p), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	state = sk->state;
	bpf_sk_release(sk);
	return state;
}

__noinline int socket_state_xdp(struct xdp_md *ctx, const struct packet *p)
{
	return p ? socket_state(ctx, p) : 0;
}

__noinline int socket_state_skb(struct __sk_buff *ctx, const struct packet *p)
{
	return p ? socket_state(ctx, p) : 0;
}
