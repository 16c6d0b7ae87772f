/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Whether the ACK that a cookie asks for would make a connection here: who listens, and how it is set. Writes what may
 * be promised in its name, and nothing else.
 */

#include "listener.h"
#include "sockets.h"

enum challenge_verdict {
	CHALLENGE_NONE, /* nothing here would take the ACK */
	CHALLENGE_KNOWN, /* a connection or a request has this address and port: the SYN is not new */
	CHALLENGE_STALE, /* no SYN has reached the listener lately, so it would not take the cookie */
	CHALLENGE_READY,
};

static __always_inline int ask_listener(struct bpf_sock *sk, struct challenge *c)
{
	struct tcp_sock *tcp;

	if (sk->state != BPF_TCP_LISTEN)
		return CHALLENGE_KNOWN;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp || !wants_cookies(tcp))
		return CHALLENGE_NONE;
	if (!takes_cookies(tcp, control_tick()))
		return CHALLENGE_STALE;
	read_promise(tcp, &c->promise);
	return CHALLENGE_READY;
}

/* Who would take the ACK, and what may be promised. */
static __always_inline int find_listener(void *ctx, const struct packet *p, struct challenge *c)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	int verdict;

	fill_tuple(&tuple, p);
	sk = bpf_skc_lookup_tcp(ctx, &tuple, tuple_bytes(p), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return CHALLENGE_NONE;
	verdict = ask_listener(sk, c);
	bpf_sk_release(sk);
	return verdict;
}

__noinline int find_listener_xdp(struct xdp_md *ctx, const struct packet *p, struct challenge *c)
{
	return CHALLENGES && p && c ? find_listener(ctx, p, c) : CHALLENGE_NONE;
}

__noinline int find_listener_skb(struct __sk_buff *ctx, const struct packet *p, struct challenge *c)
{
	return CHALLENGES && p && c ? find_listener(ctx, p, c) : CHALLENGE_NONE;
}
