/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * A refused SYN, in place, into a SYN-ACK with a cookie of our own, and which limit's cookie an ACK carries. The
 * kernel makes the cookie, of addresses that the limit's seed has changed: so it never takes a probe's ACK for one of
 * its own, nor is the ACK of a challenge or of another limit's probe an answer to this one. The seed is secret, so
 * nobody can have a cookie made for the address that another's turns into.
 *
 * No options, and no window: what answers is no larger than its SYN, and its client sends no data before it knows
 * that there is no connection (ipt_SYNPROXY does the same). No setting of the kernel decides whether cookies are made.
 */

#include "many.h"
#include "reset.h"
#include "sockets.h"

enum probe {
	PROBE_NONE, /* the packet is as it was */
	PROBE_SENT, /* it is the SYN-ACK */
	PROBE_SPOILED, /* it may have been written to, and is to be dropped */
};

static __always_inline bool limit_probes(const struct limit *l)
{
	return l->over & VERDICT_STRIKE && l->kind == LIMIT_NEW && !(l->flags & LIMIT_PROVEN);
}

static __always_inline void disguise_ipv4(struct iphdr *ip, const struct limit *l,
					  const struct packet *p)
{
	ip->saddr = p->src.word[0] ^ (__u32)l->seed;
	ip->daddr = p->dst.word[0] ^ (__u32)(l->seed >> 32);
}

static __always_inline void disguise_ipv6(struct ipv6hdr *ip, const struct limit *l,
					  const struct packet *p)
{
	__u32 src[4] = { p->src.word[0] ^ (__u32)l->seed, p->src.word[1] ^ (__u32)(l->seed >> 32),
			 p->src.word[2], p->src.word[3] };

	__builtin_memcpy(&ip->saddr, src, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, p->dst.word, sizeof(ip->daddr));
}

/* Of a SYN's header without options. Negative: none. */
static __always_inline __s64 make_probe(const struct limit *l, const struct packet *p,
					struct tcp_header *syn)
{
	if (p->src.family == 4) {
		struct iphdr ip = {};

		disguise_ipv4(&ip, l, p);
		return bpf_tcp_raw_gen_syncookie_ipv4(&ip, (void *)syn, sizeof(*syn));
	} else {
		struct ipv6hdr ip = {};

		disguise_ipv6(&ip, l, p);
		return bpf_tcp_raw_gen_syncookie_ipv6(&ip, (void *)syn, sizeof(*syn));
	}
}

__noinline int answers_probe(const struct limit *l, const struct packet *p,
			     const struct tcp_header *tcp)
{
	if (!PROBES || !l || !p || !tcp)
		return 0;
	if (p->src.family == 4) {
		struct iphdr ip = {};

		disguise_ipv4(&ip, l, p);
		return !bpf_tcp_raw_check_syncookie_ipv4(&ip, (void *)tcp);
	} else {
		struct ipv6hdr ip = {};

		disguise_ipv6(&ip, l, p);
		return !bpf_tcp_raw_check_syncookie_ipv6(&ip, (void *)tcp);
	}
}

/* Which of the limits that its packets meet an ACK answers a probe of, plus 1; 0: none. */
__noinline __u32 limit_answered(struct packet *p, const struct tcp_header *tcp)
{
	const struct service *s;
	__u32 slot;

	if (!PROBES || !p || !tcp)
		return 0;
	slot = slot_of(p);
	s = service_at(slot, listen_of(p, slot));
	if (!s)
		return 0;
	for (__u32 n = 0; n < MAX_PACKET_LIMITS; n++) {
		const struct limit *l = limit_at(s, slot, n);

		if (!l)
			break;
		if (limit_probes(l) && answers_probe(l, p, tcp))
			return n + 1;
	}
	return 0;
}

/* The limit of this id that a SYN was over. */
static __always_inline const struct limit *probing_limit(struct packet *p, __u32 id)
{
	__u32 slot = slot_of(p);
	const struct service *s = service_at(slot, listen_of(p, slot));

	if (!s)
		return NULL;
	for (__u32 n = 0; n < MAX_PACKET_LIMITS; n++) {
		const struct limit *l = limit_at(s, slot, n);

		if (!l)
			break;
		if (limit_probes(l) && l->id == id)
			return l;
	}
	return NULL;
}

/* A SYN's header into that of its probe. */
static __always_inline bool turn_into_probe(struct tcp_header *tcp, const struct packet *p,
					    const struct limit *l)
{
	__u32 header = (tcp->offset >> 4) * 4;
	struct tcp_header answer = {
		.sport = tcp->sport,
		.dport = tcp->dport,
		.seq = tcp->seq,
		.offset = TCP_BYTES / 4 << 4,
		.flags = TCP_SYN,
	};
	__s64 cookie;

	if (header < TCP_BYTES || header > p->l4_bytes)
		return false;
	cookie = make_probe(l, p, &answer);
	if (cookie < 0)
		return false;
	answer.sport = tcp->dport;
	answer.dport = tcp->sport;
	answer.seq = bpf_htonl((__u32)cookie);
	answer.ack = bpf_htonl(bpf_ntohl(tcp->seq) + 1);
	answer.flags = TCP_SYN | TCP_ACK;
	*tcp = answer;
	return true;
}
