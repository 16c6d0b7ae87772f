/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The meters: a set-associative table of GCRA levels, exact across CPUs, in constant memory. One
 * decision touches one bucket, which is one cache line. Only an admission writes.
 */

#include "decide.h"
#include "maps.h"

#define METER_MAX_TRIES 16

enum meter_verdict {
	METER_ADMITTED,
	METER_OVER,
	METER_FULL, /* the bucket's oldest slot owes too much, and the debt is not this key's */
	METER_CONTENDED,
};

struct meter_pick {
	__u64 slot;
	__s64 ahead;
	__u32 way;
	__u32 hit;
};

/*
 * The key's own slot, else the one with the oldest TAT, the lowest on a tie. Each slot is read once.
 * Two CPUs that insert one key pick the same victim: a slot's TAT only grows, so whoever has seen
 * another as the oldest has seen a value that is gone, and loses its compare-and-swap.
 */
static __always_inline void meter_pick(struct bucket *b, __u64 tag, __u64 now, __u64 stale,
				       struct meter_pick *pick)
{
	pick->hit = 0;
	pick->way = 0;
#pragma unroll
	for (__u32 way = 0; way < METER_WAYS; way++) {
		__u64 slot = *(volatile __u64 *)&b->slot[way];
		__s64 ahead = slot_ahead(slot, now, stale);

		if ((slot & SLOT_TAG) == tag)
			pick->hit = 1;
		else if (way && ahead >= pick->ahead)
			continue;
		pick->slot = slot;
		pick->ahead = ahead;
		pick->way = way;
		if (pick->hit)
			return;
	}
}

struct meter_try {
	const struct limit *limit;
	struct bucket *bucket;
	__u64 tag;
	__u64 now;
	int verdict;
};

static __always_inline int meter_try(const struct meter_try *t)
{
	const struct limit *limit = t->limit;
	struct meter_pick pick = {};
	__u64 level, next;
	int borrowed;

	meter_pick(t->bucket, t->tag, t->now, limit->stale, &pick);
	level = pick.ahead > 0 ? pick.ahead : 0;
	borrowed = level && (!pick.hit || pick.slot & SLOT_BORROWED);
	if (!gcra_admits(level, limit->cost, limit->capacity))
		return borrowed ? METER_FULL : METER_OVER;
	next = slot_charged(t->tag, t->now, level, limit->cost, borrowed);
	if (__sync_val_compare_and_swap(&t->bucket->slot[pick.way & (METER_WAYS - 1)], pick.slot,
					next) == pick.slot)
		return METER_ADMITTED;
	return METER_CONTENDED;
}

static long meter_retry(__u32 index, void *ctx)
{
	struct meter_try *t = ctx;

	t->verdict = meter_try(t);
	return t->verdict != METER_CONTENDED;
}

/*
 * Charge one cost to the key that hash stands for. A limit is never exceeded: what is admitted was
 * written by a compare-and-swap that won. Worst case: METER_MAX_TRIES lost races, then refused.
 */
__noinline int meter_charge(const struct limit *limit, __u64 hash, __u64 now_ns)
{
	struct meter_try t = { .limit = limit, .tag = slot_tag(hash) };
	__u32 index;

	if (!limit)
		return METER_CONTENDED;
	index = limit->first_bucket + ((__u32)hash & limit->bucket_mask);
	t.bucket = bpf_map_lookup_elem(&meters, &index);
	if (!t.bucket)
		return METER_CONTENDED;
	t.now = (now_ns >> (limit->unit_shift & 63)) & SLOT_TAT;
	t.verdict = meter_try(&t);
	if (t.verdict == METER_CONTENDED)
		bpf_loop(METER_MAX_TRIES - 1, meter_retry, &t, 0);
	return t.verdict;
}
