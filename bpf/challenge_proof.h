/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Tells an ACK that proves its source from all others: a valid cookie of the kernel's, to a service that asks for
 * proof, from a source that was challenged lately, and of no connection that is there. Every later segment that
 * carries the same numbers belongs to the connection that came of the first. Reads only.
 */

#include "ban.h"
#include "challenge_act.h"
#include "service.h"

static __always_inline bool asks_for_proof(struct packet *p)
{
	__u32 slot = slot_of(p);
	const struct service *s = service_at(slot, listen_of(p, slot));
	__u32 until = *(volatile __u32 *)proof_slot(p, slot);

	return s && s->flags & SERVICE_PROVES && until >= bpf_ktime_get_coarse_ns() / 1000000000;
}

static __always_inline bool good_cookie(const struct packet *p, struct tcp_header *tcp)
{
	if (p->src.family == 4) {
		struct iphdr ip = { .saddr = p->src.word[0], .daddr = p->dst.word[0] };

		return !bpf_tcp_raw_check_syncookie_ipv4(&ip, (void *)tcp);
	} else {
		struct ipv6hdr ip = {};

		__builtin_memcpy(&ip.saddr, p->src.word, sizeof(ip.saddr));
		__builtin_memcpy(&ip.daddr, p->dst.word, sizeof(ip.daddr));
		return !bpf_tcp_raw_check_syncookie_ipv6(&ip, (void *)tcp);
	}
}

/* The listener would be asked: there is no connection and no request. */
static __always_inline bool meets_listener(void *ctx, const struct packet *p)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	bool listens;

	fill_tuple(&tuple, p);
	sk = bpf_skc_lookup_tcp(ctx, &tuple, tuple_bytes(p), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	listens = sk->state == BPF_TCP_LISTEN;
	bpf_sk_release(sk);
	return listens;
}

/*
 * What an ACK whose cookie is good or not comes to. A wrong one is counted while it may have been a strike, so that a
 * flood of them costs no more look-ups of sockets than the budget has.
 */
static __always_inline int proof_kind(void *ctx, struct packet *p, const struct tcp_header *tcp,
				      bool good)
{
	struct counts *mine = own_counts();

	if (!good && !(features & FEATURE_BAN && may_strike(p, slot_of(p), coarse_ns())))
		return KIND_ESTABLISHED;
	if (!mine || !meets_listener(ctx, p))
		return KIND_ESTABLISHED;
	if (!good) {
		charge_guess(p, coarse_ns());
		return KIND_ESTABLISHED;
	}
	mine->proof = bpf_ntohl(tcp->ack) - bpf_ntohl(tcp->seq);
	return KIND_PROOF;
}

__noinline int proof_xdp(struct xdp_md *ctx, struct packet *p)
{
	struct tcp_header tcp;

	if (!PROVES || !p || !asks_for_proof(p) || load_xdp(ctx, p->l4_offset, &tcp, sizeof(tcp)))
		return KIND_ESTABLISHED;
	return proof_kind(ctx, p, &tcp, good_cookie(p, &tcp));
}

__noinline int proof_skb(struct __sk_buff *ctx, struct packet *p)
{
	struct tcp_header tcp;

	if (!PROVES || !p || !asks_for_proof(p))
		return KIND_ESTABLISHED;
	if (has_link_header ? load_skb(ctx, p->l4_offset, &tcp, sizeof(tcp)) :
			      load_net(ctx, p->l4_offset, &tcp, sizeof(tcp)))
		return KIND_ESTABLISHED;
	return proof_kind(ctx, p, &tcp, good_cookie(p, &tcp));
}
