/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What was sent, charged to a limit of bytes_out: in full, whatever its key owes already, for it is gone. Refuses
 * nothing. A key may come to owe limit->debt, which is many bursts and within the region's horizon; what is
 * sent past that is forgotten.
 */

#include "many.h"

/*
 * The fraction of a unit is rounded by chance, so that the sum is right. Always up, as elsewhere, would count
 * packets of 66 bytes a tenth too high where a unit is a nanosecond.
 */
static __always_inline __u64 owe_cost(const struct limit *l, __u32 bytes)
{
	__u64 fraction = (1ULL << (l->cost_shift & 63)) - 1;

	return (bytes * l->cost + (bpf_get_prandom_u32() & fraction)) >> (l->cost_shift & 63);
}

/* What of the cost is still to be owed. */
static __always_inline __u64 owe_room(__u64 level, __u64 cost, __u64 debt)
{
	__u64 room = debt > level ? debt - level : 0;

	return cost < room ? cost : room;
}

/* As meter_swap, and nobody is over. */
static __always_inline int owe_swap(const struct meter_try *t, __u32 way, __u64 old, __u64 level,
				    __u64 loan)
{
	__u64 cost = owe_room(level, t->cost, t->limit->debt);
	__u64 next = slot_charged(t->tag, t->now, level, cost, loan && level);

	if (__sync_val_compare_and_swap(&t->bucket->slot[way & (METER_WAYS - 1)], old, next) != old)
		return METER_CONTENDED;
	return METER_ADMITTED;
}

/* As meter_hit. */
static __always_inline int owe_hit(const struct meter_try *t, __u32 way, __u64 slot)
{
	__u64 level = slot_level(slot, t->now, t->limit->stale);
	__u64 loan = slot & SLOT_BORROWED;

	/* No chance decides on a ban: there a loan ends when nothing of it is left. */
	if (loan && level && !(t->limit->flags & LIMIT_PROVEN) && meter_repaid(t))
		loan = 0;
	return owe_swap(t, way, slot, level, loan);
}

/* As meter_insert: the same victim on every CPU. */
static __always_inline int owe_insert(const struct meter_try *t)
{
	__s64 oldest = meter_oldest(t);
	__u32 way = oldest & (METER_WAYS - 1);
	__u64 old;

	if (oldest == METER_NO_RANK)
		return METER_CONTENDED;
	old = read_slot(t->bucket, way);
	if (slot_rank(old, t->now + t->limit->stale, way) != oldest)
		return METER_CONTENDED;
	return owe_swap(t, way, old, slot_debt(old, t->now, t->limit->stale), 1);
}

static __always_inline int owe_try(const struct meter_try *t)
{
#pragma unroll
	for (__u32 way = 0; way < METER_WAYS; way++) {
		__u64 slot = read_slot(t->bucket, way);

		if (slot_is(slot, t->tag))
			return owe_hit(t, way, slot);
	}
	return owe_insert(t);
}

static long owe_retry(__u32 index, void *ctx)
{
	struct meter_try *t = ctx;

	t->verdict = owe_try(t);
	return t->verdict != METER_CONTENDED;
}

static long owe_state_step(__u32 index, void *ctx)
{
	struct state_try *t = ctx;
	__u64 tat = *(volatile __u64 *)&t->state->tat_ns;
	__u64 level = tat > t->now ? tat - t->now : 0;
	__u64 next = t->now + level + owe_room(level, t->cost, t->capacity);

	return __sync_val_compare_and_swap(&t->state->tat_ns, tat, next) == tat;
}

/* `per: service`. A function for the sake of the stack. */
__noinline int owe_state(const struct limit *l, __u64 now, __u64 cost)
{
	struct state_try t = { .now = now, .cost = cost };

	if (!l)
		return 0;
	t.state = own_state(l);
	t.capacity = l->debt;
	bpf_loop(METER_MAX_TRIES, owe_state_step, &t, 0);
	return 0;
}

/* Worst case: METER_MAX_TRIES lost races, then this buffer is not counted. */
__noinline int owe_meter(const struct limit *l, __u64 hash, __u64 now, __u64 cost)
{
	struct meter_try t;

	if (!l)
		return 0;
	t = meter_start(l, hash, now, cost);
	bpf_loop(METER_MAX_TRIES, owe_retry, &t, 0);
	return 0;
}

/* p is what the answer to it would be: its source is whom the bytes went to. in: the sets of that. */
__noinline int limit_owe(const struct limit *l, const struct packet *p, __u64 now, __u64 in,
			 __u32 bytes)
{
	if (!l || !p || l->kind != LIMIT_BYTES_OUT || !limit_is_of(l, in))
		return 0;
	if (l->per == PER_SERVICE)
		return owe_state(l, now, owe_cost(l, bytes));
	return owe_meter(l, hash_key(l, p), now, owe_cost(l, bytes));
}
