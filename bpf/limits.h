/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * One limit against one packet: whether it applies, by which key it counts, what the packet costs, and
 * what being over it means. Which limits a packet meets is journey's and many.h's.
 */

#include "hash.h"
#include "meters.h"
#include "packet.h"
#include "service.h"

static __always_inline void mask_addr(struct addr *to, const struct addr *from, __u32 mask4,
				      const __u32 mask6[4])
{
	to->family = from->family;
	if (from->family == 4) {
		to->word[0] = from->word[0] & mask4;
		to->word[1] = to->word[2] = to->word[3] = 0;
		return;
	}
	to->word[0] = from->word[0] & mask6[0];
	to->word[1] = from->word[1] & mask6[1];
	to->word[2] = from->word[2] & mask6[2];
	to->word[3] = from->word[3] & mask6[3];
}

static __always_inline __u64 words(__u32 first, __u32 second)
{
	return (__u64)second << 32 | first;
}

static __always_inline __u64 hash_addr(const struct limit *l, const struct addr *a, __u64 seed)
{
	if (a->family == 4)
		return hash_ipv4(a->word[0] & l->mask4, seed, control.hash);
	return hash_ipv6(words(a->word[0] & l->mask6[0], a->word[1] & l->mask6[1]),
			 words(a->word[2] & l->mask6[2], a->word[3] & l->mask6[3]), seed,
			 control.hash);
}

/* A destination beside a source counts whole, and begins where the source's hash ended: one key of two. */
static __always_inline __u64 hash_whole(const struct addr *a, __u64 seed)
{
	if (a->family == 4)
		return hash_ipv4(a->word[0], seed, control.hash);
	return hash_ipv6(words(a->word[0], a->word[1]), words(a->word[2], a->word[3]), seed,
			 control.hash);
}

static __always_inline __u64 hash_key(const struct limit *l, const struct packet *p)
{
	__u64 source;

	if (l->per == PER_DESTINATION)
		return hash_addr(l, &p->dst, l->seed);
	source = hash_addr(l, &p->src, l->seed);
	return l->per == PER_SOURCE ? source : hash_whole(&p->dst, source);
}

static __always_inline __u64 limit_cost(const struct limit *l, const struct packet *p)
{
	__u64 amount = l->kind == LIMIT_BYTES_IN ? p->bytes :
		       l->kind == LIMIT_PACKETS	 ? p->segments :
						   1;

	/* What asks for a connection sends nothing: over the limit is who owes a whole burst. */
	if (features & FEATURE_BYTES_OUT && l->kind == LIMIT_BYTES_OUT)
		return 1;
	return gcra_cost(amount, l->cost, l->cost_shift, l->stale);
}

static __always_inline __u32 with_another(__u32 verdict, enum action action)
{
	return (verdict & ~(7 << VERDICT_ACTION_SHIFT)) | action << VERDICT_ACTION_SHIFT;
}

/* A verdict for another reason than being over, of the same limit. */
static __always_inline __u32 verdict_of(const struct limit *l, __u32 reason)
{
	return reason | (l->id + 1) << VERDICT_LIMIT_SHIFT;
}

/* The same of what is refused by a challenge, if no other limit refuses it otherwise. */
static __always_inline __u32 challenge_of(const struct limit *l, __u32 reason)
{
	return verdict_of(l, reason) | VERDICT_CHALLENGED |
	       ACTION_CHALLENGE << VERDICT_ACTION_SHIFT;
}

/* A challenge that stands. */
static __always_inline __u32 settled(__u32 verdict)
{
	return verdict & VERDICT_CHALLENGED ? verdict | REFUSED : verdict;
}

/* The same of a refusal. A limit that only observes refuses nothing, for whatever reason. */
static __always_inline __u32 refusal_of(const struct limit *l, __u32 reason)
{
	if (l->flags & LIMIT_OBSERVES)
		return verdict_of(l, reason) | VERDICT_OBSERVED |
		       ACTION_OBSERVE << VERDICT_ACTION_SHIFT;
	return verdict_of(l, REFUSE(reason));
}

static __always_inline struct limit_state *own_state(const struct limit *l)
{
	return &tables.limit_states[l->id & (LIMIT_IDS - 1)];
}

/* Worst case: a CPU that loses both its tries is refused. */
__noinline int aggregate_admits(const struct limit *limit, __u64 now)
{
	struct limit_state *state;

	if (!limit)
		return 0;
	state = own_state(limit);
	for (int try = 0; try < 2; try++) {
		__u64 tat = *(volatile __u64 *)&state->aggregate_tat_ns;
		__u64 next =
			gcra_next(tat, now, limit->aggregate_cost_ns, limit->aggregate_capacity_ns);

		if (!next)
			return 0;
		if (__sync_val_compare_and_swap(&state->aggregate_tat_ns, tat, next) == tat)
			return 1;
	}
	return 0;
}

/* The same, and nothing is written. */
static __always_inline bool aggregate_would_admit(const struct limit *l, __u64 now)
{
	__u64 tat = *(volatile __u64 *)&own_state(l)->aggregate_tat_ns;

	return gcra_next(tat, now, l->aggregate_cost_ns, l->aggregate_capacity_ns);
}

/* What no aggregate lets through. */
static __always_inline __u32 no_room(const struct limit *l, __u32 slot)
{
	const struct policy *policy = policy_at(slot);

	if (features & FEATURE_CHALLENGE && policy->on_table_full == TABLE_FULL_CHALLENGE &&
	    l->kind == LIMIT_NEW && policy->mode == MODE_ENFORCE &&
	    !(l->flags & (LIMIT_OBSERVES | LIMIT_PROVEN)))
		return challenge_of(l, REASON_TABLE_FULL);
	return refusal_of(l, REASON_TABLE_FULL);
}

static __always_inline __u32 table_full(const struct limit *limit, __u32 slot, __u64 now)
{
	if (policy_at(slot)->on_table_full != TABLE_FULL_DROP && aggregate_admits(limit, now))
		return verdict_of(limit, REASON_TABLE_FULL);
	return no_room(limit, slot);
}

static __always_inline __u32 charged(int meter, const struct limit *limit, __u32 slot, __u64 now)
{
	switch (meter) {
	case METER_ADMITTED:
		return REASON_UNDER_LIMIT;
	case METER_OVER:
		return limit->over;
	case METER_FULL:
		return table_full(limit, slot, now);
	default:
		return refusal_of(limit, REASON_CONTENDED);
	}
}

/* A new connection against the one plain limit of its service: no look before the charge. */
static __always_inline __u32 limit_judge_plain(const struct limit *l, const struct packet *p,
					       __u32 slot, __u64 now)
{
	__u32 verdict;
	__u64 hash;

	if (features & FEATURE_UDP && p->kind != KIND_NEW)
		return REASON_UNDER_LIMIT;
	hash = hash_addr(l, &p->src, l->seed);

	verdict = charged(meter_charge_inline(l, hash, now, l->cost), l, slot, now);
	return features & FEATURE_CHALLENGE ? settled(verdict) : verdict;
}
