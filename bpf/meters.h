/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The meters: a set-associative table of GCRA levels, exact across CPUs, in constant memory. One
 * decision touches one bucket, which is one cache line. Only an admission writes.
 */

#include "decide.h"
#include "frozen.h"
#include "maps.h"

#define METER_MAX_TRIES 16
#define METER_NO_RANK ((__s64)(~0ULL >> 1))

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
	__u64 cost;
	int verdict;
};

/*
 * The debt that was taken over has drained after as much time as a whole burst takes, in which a key that
 * hammers is admitted about burst times: so each admission ends the loan with that probability. A key
 * that pauses ends it when its level is zero. Where it would be a strike to be over no chance decides, and only that ends
 * it.
 */
static __always_inline int meter_repaid(const struct meter_try *t)
{
	__u32 charges = t->limit->capacity / (t->cost ?: 1);

	return !charges || !(bpf_get_prandom_u32() % charges);
}

/*
 * Charge a slot that was read as old, by a compare-and-swap that only wins if it still is. loan: its
 * debt is that of the key before. Who is over owes something, so a loan still stands then.
 */
static __always_inline int meter_swap(const struct meter_try *t, __u32 way, __u64 old, __u64 level,
				      __u64 loan)
{
	__u64 next;

	if (!gcra_admits(level, t->cost, t->limit->capacity))
		return loan ? METER_FULL : METER_OVER;
	if (!level)
		loan = 0;
	next = slot_charged(t->tag, t->now, level, t->cost, !!loan);
	if (__sync_val_compare_and_swap(&t->bucket->slot[way & (METER_WAYS - 1)], old, next) != old)
		return METER_CONTENDED;
	return METER_ADMITTED;
}

/* The slot is the key's own. */
static __always_inline int meter_hit(const struct meter_try *t, __u32 way, __u64 slot)
{
	__u64 level = slot_level(slot, t->now, t->limit->stale);
	__u64 loan = slot & SLOT_BORROWED;

	if (loan && level && !(t->limit->over & VERDICT_STRIKE) &&
	    gcra_admits(level, t->cost, t->limit->capacity) && meter_repaid(t))
		loan = 0;
	return meter_swap(t, way, slot, level, loan);
}

static __always_inline __u64 read_slot(const struct bucket *b, __u32 way)
{
	return *(volatile __u64 *)&b->slot[way & (METER_WAYS - 1)];
}

/* The oldest slot of a bucket as rank and way in one. METER_NO_RANK: the key itself is in there after all. */
static __always_inline __s64 meter_oldest(const struct meter_try *t)
{
	__u64 horizon = t->now + t->limit->stale;
	__s64 oldest = METER_NO_RANK;

#pragma unroll
	for (__u32 way = 0; way < METER_WAYS; way++) {
		__u64 slot = read_slot(t->bucket, way);

		if (slot_is(slot, t->tag))
			return METER_NO_RANK;
		oldest = rank_min(oldest, slot_rank(slot, horizon, way));
	}
	return oldest;
}

/*
 * The slot to take over. Two CPUs that insert one key pick the same victim: a slot's TAT only grows,
 * so whoever has seen another as the oldest has seen a value that is gone, and loses its
 * compare-and-swap. So does a CPU that meets the key itself on this second look.
 */
static __always_inline int meter_insert(const struct meter_try *t)
{
	__s64 oldest = meter_oldest(t);
	__u32 way = oldest & (METER_WAYS - 1);
	__u64 old;

	if (oldest == METER_NO_RANK)
		return METER_CONTENDED;
	old = read_slot(t->bucket, way);
	if (slot_rank(old, t->now + t->limit->stale, way) != oldest)
		return METER_CONTENDED;
	return meter_swap(t, way, old, slot_debt(old, t->now, t->limit->stale), 1);
}

static __always_inline int meter_try(const struct meter_try *t)
{
#pragma unroll
	for (__u32 way = 0; way < METER_WAYS; way++) {
		__u64 slot = read_slot(t->bucket, way);

		if (slot_is(slot, t->tag))
			return meter_hit(t, way, slot);
	}
	return meter_insert(t);
}

static long meter_retry(__u32 index, void *ctx)
{
	struct meter_try *t = ctx;

	t->verdict = meter_try(t);
	return t->verdict != METER_CONTENDED;
}

static __always_inline struct meter_try meter_start(const struct limit *limit, __u64 hash,
						    __u64 now_ns, __u64 cost)
{
	__u32 index = limit->first_bucket + ((__u32)hash & limit->bucket_mask);
	struct bucket *bucket = &tables.meters[index & (METER_BUCKETS - 1)];
	struct meter_try t = {
		.limit = limit,
		.tag = slot_tag(hash),
		.now = (now_ns >> (limit->unit_shift & 63)) & SLOT_TAT,
		.cost = cost,
		.verdict = METER_CONTENDED,
	};

	KEEP(bucket);
	t.bucket = bucket;
	return t;
}

/*
 * Charge cost to the key that hash stands for. A limit is never exceeded: what is admitted was written
 * by a compare-and-swap that won. Worst case: METER_MAX_TRIES lost races, then refused.
 */
__noinline int meter_charge(const struct limit *limit, __u64 hash, __u64 now_ns, __u64 cost)
{
	struct meter_try t;

	if (!limit)
		return METER_CONTENDED;
	t = meter_start(limit, hash, now_ns, cost);
	bpf_loop(METER_MAX_TRIES, meter_retry, &t, 0);
	return t.verdict;
}

/* The same without a call, unless the first race is lost. */
static __always_inline int meter_charge_inline(const struct limit *limit, __u64 hash, __u64 now_ns,
					       __u64 cost)
{
	struct meter_try t = meter_start(limit, hash, now_ns, cost);
	int verdict = meter_try(&t);

	if (verdict == METER_CONTENDED)
		verdict = meter_charge(limit, hash, now_ns, cost);
	return verdict;
}

/* What meter_charge would say now, and nothing is written. */
static __always_inline int meter_look(const struct limit *limit, __u64 hash, __u64 now_ns,
				      __u64 cost)
{
	struct meter_try t = meter_start(limit, hash, now_ns, cost);
	__s64 oldest;
	__u64 slot;

#pragma unroll
	for (__u32 way = 0; way < METER_WAYS; way++) {
		slot = read_slot(t.bucket, way);
		if (!slot_is(slot, t.tag))
			continue;
		if (gcra_admits(slot_level(slot, t.now, limit->stale), cost, limit->capacity))
			return METER_ADMITTED;
		return slot & SLOT_BORROWED ? METER_FULL : METER_OVER;
	}
	oldest = meter_oldest(&t);
	if (oldest == METER_NO_RANK)
		return METER_ADMITTED; /* it came in just now; the charge will see */
	slot = read_slot(t.bucket, oldest);
	if (gcra_admits(slot_debt(slot, t.now, limit->stale), cost, limit->capacity))
		return METER_ADMITTED;
	return METER_FULL;
}

/*
 * A refused packet counts too, up to a whole burst. Only for a key that is there and whose debt is its
 * own: one that is refused for another's debt owes nothing. Worst case of a lost race: this one is not counted.
 */
static __always_inline void meter_reject(const struct limit *limit, __u64 hash, __u64 now_ns,
					 __u64 cost)
{
	struct meter_try t = meter_start(limit, hash, now_ns, cost);

#pragma unroll
	for (__u32 way = 0; way < METER_WAYS; way++) {
		__u64 slot = read_slot(t.bucket, way), level, next;

		if (!slot_is(slot, t.tag))
			continue;
		level = slot_level(slot, t.now, limit->stale);
		if (level >= limit->capacity || (level && slot & SLOT_BORROWED))
			return;
		cost = limit->capacity - level < cost ? limit->capacity - level : cost;
		next = slot_charged(t.tag, t.now, level, cost, 0);
		__sync_val_compare_and_swap(&t.bucket->slot[way], slot, next);
		return;
	}
}
