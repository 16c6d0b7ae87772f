/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The socket that would take a packet here. Reads only. */

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "listener.h"
#include "packet.h"

/* Beside the kernel's states: a request, which the packet makes a connection of. */
#define SOCKET_OPENS 128

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

/*
 * An ACK of what only who got the SYN-ACK knows. One for each handshake: where the SYN-ACK was sent again, or data comes
 * with the ACK, there may be several, and none counts.
 */
static __always_inline bool ends_handshake(struct bpf_sock *sk, const struct packet *p,
					   const struct tcp_header *tcp)
{
	const struct tcp_request_sock *request;

	if (sk->state != BPF_TCP_NEW_SYN_RECV || p->l4_bytes != (tcp->offset >> 4) * 4)
		return false;
	request = bpf_skc_to_tcp_request_sock(sk);
	return request && bpf_ntohl(tcp->ack) == request->snt_isn + 1 &&
	       !BPF_CORE_READ_BITFIELD(&request->req.req, num_timeout);
}

/* Its state, BPF_TCP_LISTEN where no connection and no request has the packet's addresses and ports; 0: there is none. */
static __always_inline int socket_state(void *ctx, const struct packet *p,
					const struct tcp_header *ack)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	int state;

	fill_tuple(&tuple, p);
	sk = bpf_skc_lookup_tcp(ctx, &tuple, tuple_bytes(p), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	state = PROBES && ack && ends_handshake(sk, p, ack) ? SOCKET_OPENS : sk->state;
	bpf_sk_release(sk);
	return state;
}

__noinline int socket_state_xdp(struct xdp_md *ctx, const struct packet *p)
{
	return p ? socket_state(ctx, p, NULL) : 0;
}

__noinline int socket_state_skb(struct __sk_buff *ctx, const struct packet *p)
{
	return p ? socket_state(ctx, p, NULL) : 0;
}

/* The same of an ACK, whose header is read: SOCKET_OPENS too. */
__noinline int socket_met_xdp(struct xdp_md *ctx, const struct packet *p,
			      const struct tcp_header *ack)
{
	return p && ack ? socket_state(ctx, p, ack) : 0;
}

__noinline int socket_met_skb(struct __sk_buff *ctx, const struct packet *p,
			      const struct tcp_header *ack)
{
	return p && ack ? socket_state(ctx, p, ack) : 0;
}
