/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * A packet that leaves, to what it costs whom it goes to: turned round, so that the remote end is the source and
 * the local one the destination, it belongs to the service that its answer would meet, and to those limits of
 * it that count what is sent. Who downloads over one that bans is banned here. Drops nothing and counts under no reason.
 */

#include "acked.h"
#include "journey.h"

/* Later fragments carry no ports; the first stands for them, see wire_bytes. */
static __always_inline bool is_counted(const struct packet *p)
{
	return p->kind == KIND_NEW || p->kind == KIND_ESTABLISHED || p->kind == KIND_DATAGRAM;
}

/*
 * The bytes of all packets that one buffer becomes, each with its headers: the kernel reckons them, from the
 * real length of the headers, before any program at egress. A first fragment of UDP stands for the whole
 * datagram, of which it tells the length.
 */
static __always_inline __u32 wire_bytes(const struct __sk_buff *ctx, const struct packet *p)
{
	__u32 bytes = ctx->wire_len, part = p->l4_bytes, parts;

	if (!p->first_fragment || p->kind != KIND_DATAGRAM || !part || part > bytes)
		return bytes;
	parts = (p->udp_bytes + part - 1) / part;
	return p->udp_bytes + parts * (bytes - part);
}

static __always_inline void turn_round(struct packet *p)
{
	struct addr local = p->src;
	__u16 port = p->sport;

	p->src = p->dst;
	p->dst = local;
	p->sport = p->dport;
	p->dport = port;
}

/* What is allowed is counted nowhere, as where it comes in. */
static __always_inline bool is_allowed(const struct packet *p, const struct service *s, __u64 in,
				       __u32 slot, __u64 now)
{
	return in & s->allow || (lists_may_hold(&p->src) && lists_allow(p, slot, now));
}

/* What a limit that bans makes of acknowledged bytes. */
static __always_inline void charge_acked(const struct limit *l, const struct packet *p,
					 const struct service *s, __u32 slot, __u64 now,
					 __u32 bytes)
{
	__u32 key = slot << 16 | l->id;

	if (acked_is_over(limit_in(slot, l->acked), p, now, bytes) && strike_by_acked(p, key, now))
		ban_source(p, key, s->id, now);
}

/* p is turned round. */
__noinline int charge_sent(struct __sk_buff *ctx, struct packet *p, __u32 bytes)
{
	const struct service *s;
	__u32 slot, acked = 0;
	__u64 now, in = 0;

	if (!p)
		return 0;
	turn_round(p);
	slot = slot_of(p);
	s = service_at(slot, listen_of(p, slot));
	if (!s || !(s->flags & SERVICE_BYTES_OUT))
		return 0;
	now = clock_ns(policy_at(slot));
	if (features & FEATURE_SETS && s->flags & SERVICE_SETS)
		in = sets_of(p, slot);
	if (is_allowed(p, s, in, slot, now))
		return 0;
	if (COUNTS_ACKED && s->flags & SERVICE_ACKED)
		acked = newly_acked(ctx, p, policy_at(slot)->generation);
	for (__u32 n = 0; n < MAX_PACKET_LIMITS; n++) {
		const struct limit *l = limit_at(s, slot, n);

		if (!l)
			break;
		limit_owe(l, p, now, in, bytes);
		if (COUNTS_ACKED && acked && l->acked && limit_is_of(l, in))
			charge_acked(l, p, s, slot, now, acked);
	}
	return 0;
}

/* So `status` can tell that this program runs. */
static __always_inline void count_self_test(const struct packet *p)
{
	struct counts *mine = own_counts();

	if (mine)
		count_packet(mine, p, REASON_SELF_TEST);
}
