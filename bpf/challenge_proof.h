/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Tells an ACK that proves its source from all others: from a source that was challenged or probed lately, and either
 * with a valid cookie of the kernel's, to a service that asks for proof, or with that of a probe. And of no connection
 * that is there: every later segment that carries the numbers of the former belongs to the connection that came of it,
 * and among the ACKs of all connections some have those of the latter by chance. Writes down what it is proof of.
 */

#include "ban.h"
#include "challenge_act.h"
#include "probe.h"
#include "service.h"

/* What proof an ACK may be to its service: SERVICE_PROVES, SERVICE_PROBES. */
static __always_inline __u32 proof_asked(struct packet *p)
{
	__u32 slot = slot_of(p);
	const struct service *s = service_at(slot, listen_of(p, slot));
	__u32 until = *(volatile __u32 *)proof_slot(p);

	if (!s || until < bpf_ktime_get_coarse_ns() / 1000000000)
		return 0;
	return s->flags & (SERVICE_PROVES | SERVICE_PROBES);
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

static __always_inline int cookie_kind(struct counts *mine, struct packet *p,
				       struct tcp_header *tcp, __u32 asked)
{
	mine->proof = bpf_ntohl(tcp->ack) - bpf_ntohl(tcp->seq);
	if (PROVES && asked & SERVICE_PROVES && good_cookie(p, tcp))
		return KIND_PROOF;
	if (PROBES && asked & SERVICE_PROBES) {
		mine->probed = limit_answered(p, tcp);
		if (mine->probed)
			return KIND_PROBED;
	}
	return KIND_ESTABLISHED;
}

/* A wrong cookie is looked at further only while it may have been a strike: past the budget no flood costs more. */
static __always_inline bool is_guess(struct packet *p, int kind)
{
	return features & FEATURE_BAN && kind == KIND_ESTABLISHED &&
	       may_strike(p, slot_of(p), coarse_ns());
}

/* met: BPF_TCP_LISTEN where there is no connection and no request, so a listener is asked. */
static __always_inline int proof_kind(struct packet *p, int kind, int met, __u32 asked)
{
	if (PROBES && met == SOCKET_OPENS && asked & SERVICE_PROBES)
		return KIND_OPENS;
	if (met != BPF_TCP_LISTEN)
		return KIND_ESTABLISHED;
	if (kind == KIND_ESTABLISHED)
		charge_guess(p, coarse_ns());
	return kind;
}

__noinline int proof_xdp(struct xdp_md *ctx, struct packet *p)
{
	struct counts *mine = own_counts();
	struct tcp_header tcp;
	__u32 asked;
	int kind;

	if (!(PROVES || PROBES) || !p || !mine)
		return KIND_ESTABLISHED;
	asked = proof_asked(p);
	if (!asked || load_xdp(ctx, p->l4_offset, &tcp, sizeof(tcp)))
		return KIND_ESTABLISHED;
	kind = cookie_kind(mine, p, &tcp, asked);
	if (kind == KIND_ESTABLISHED && !is_guess(p, kind))
		return kind;
	return proof_kind(p, kind, socket_met_xdp(ctx, p, &tcp), asked);
}

__noinline int proof_skb(struct __sk_buff *ctx, struct packet *p)
{
	struct counts *mine = own_counts();
	struct tcp_header tcp;
	__u32 asked;
	int kind;

	if (!(PROVES || PROBES) || !p || !mine)
		return KIND_ESTABLISHED;
	asked = proof_asked(p);
	if (!asked || (has_link_header ? load_skb(ctx, p->l4_offset, &tcp, sizeof(tcp)) :
					 load_net(ctx, p->l4_offset, &tcp, sizeof(tcp))))
		return KIND_ESTABLISHED;
	kind = cookie_kind(mine, p, &tcp, asked);
	if (kind == KIND_ESTABLISHED && !is_guess(p, kind))
		return kind;
	return proof_kind(p, kind, socket_met_skb(ctx, p, &tcp), asked);
}
