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

struct meter_try {
	struct bucket *bucket;
	const struct limit *limit;
	__u64 tag;
	__u64 now;
	int verdict;
};

/*
 * Whether a slot's debt is that of the key before. The debt that was taken over has drained after as
 * much time as a whole burst takes, in which a key that hammers is admitted about burst times: so each
 * admission ends the loan with that probability. A key that pauses ends it when its level is zero.
 */
static __always_inline int meter_borrowed(__u64 old, __u64 level, int hit)
{
	if (!level)
		return 0;
	if (!hit)
		return 1;
	return !!(old & SLOT_BORROWED);
}

static __always_inline int meter_repaid(const struct limit *limit)
{
	return !limit->burst || !(bpf_get_prandom_u32() % limit->burst);
}

/* Charge a slot that was read as old, by a compare-and-swap that only wins if it still is. */
static __always_inline int meter_swap(const struct meter_try *t, __u32 way, __u64 old, int hit)
{
	const struct limit *limit = t->limit;
	__s64 ahead = slot_ahead(old, t->now, limit->stale);
	__u64 level = ahead > 0 ? ahead : 0;
	int borrowed = meter_borrowed(old, level, hit);
	__u64 next;

	if (!gcra_admits(level, limit->cost, limit->capacity))
		return borrowed ? METER_FULL : METER_OVER;
	if (borrowed && hit && meter_repaid(limit))
		borrowed = 0;
	next = slot_charged(t->tag, t->now, level, limit->cost, borrowed);
	if (__sync_val_compare_and_swap(&t->bucket->slot[way & (METER_WAYS - 1)], old, next) != old)
		return METER_CONTENDED;
	return METER_ADMITTED;
}

static __always_inline __u64 read_slot(const struct bucket *b, __u32 way)
{
	return *(volatile __u64 *)&b->slot[way & (METER_WAYS - 1)];
}

/*
 * The slot to take over. Two CPUs that insert one key pick the same victim: a slot's TAT only grows,
 * so whoever has seen another as the oldest has seen a value that is gone, and loses its
 * compare-and-swap. So does a CPU that meets the key itself on this second look.
 */
static __always_inline int meter_insert(const struct meter_try *t)
{
	__u64 stale = t->limit->stale;
	__s64 oldest = 1LL << 62;
	__u64 old;

#pragma unroll
	for (__u32 way = 0; way < METER_WAYS; way++) {
		__u64 slot = read_slot(t->bucket, way);

		if (slot_is(slot, t->tag))
			return METER_CONTENDED;
		oldest = rank_min(oldest, slot_rank(slot, t->now, stale, way));
	}
	old = read_slot(t->bucket, oldest);
	if (slot_rank(old, t->now, stale, oldest & (METER_WAYS - 1)) != oldest)
		return METER_CONTENDED;
	return meter_swap(t, oldest, old, 0);
}

static __always_inline int meter_try(const struct meter_try *t)
{
#pragma unroll
	for (__u32 way = 0; way < METER_WAYS; way++) {
		__u64 slot = read_slot(t->bucket, way);

		if (slot_is(slot, t->tag))
			return meter_swap(t, way, slot, 1);
	}
	return meter_insert(t);
}

static long meter_retry(__u32 index, void *ctx)
{
	struct meter_try *t = ctx;

	t->verdict = meter_try(t);
	return t->verdict != METER_CONTENDED;
}

__noinline int meter_contended(const struct limit *limit, __u32 bucket, __u64 tag, __u64 now)
{
	struct meter_try t = { .limit = limit, .tag = tag, .now = now, .verdict = METER_CONTENDED };

	t.bucket = bpf_map_lookup_elem(&meters, &bucket);
	if (limit && t.bucket)
		bpf_loop(METER_MAX_TRIES - 1, meter_retry, &t, 0);
	return t.verdict;
}

/*
 * Charge one cost to the key that hash stands for. A limit is never exceeded: what is admitted was
 * written by a compare-and-swap that won. Worst case: METER_MAX_TRIES lost races, then refused.
 */
static __always_inline int meter_charge(const struct limit *limit, __u64 hash, __u64 now_ns)
{
	__u32 index = limit->first_bucket + ((__u32)hash & limit->bucket_mask);
	struct meter_try t = {
		.bucket = bpf_map_lookup_elem(&meters, &index),
		.limit = limit,
		.tag = slot_tag(hash),
		.now = (now_ns >> (limit->unit_shift & 63)) & SLOT_TAT,
	};
	int verdict;

	if (!t.bucket)
		return METER_CONTENDED;
	verdict = meter_try(&t);
	if (verdict == METER_CONTENDED)
		verdict = meter_contended(limit, index, t.tag, t.now);
	return verdict;
}
