/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The arithmetic of a verdict: GCRA on one slot, and which action a reason asks for. Pure: no map, no
 * helper, no clock. It also compiles as plain C on a host.
 */

#include "packet.h"

#define SLOT_TAT_BITS 40
#define SLOT_TAT ((1ULL << SLOT_TAT_BITS) - 1)
#define SLOT_BORROWED (1ULL << SLOT_TAT_BITS)
#define SLOT_TAG_SHIFT (SLOT_TAT_BITS + 1)
#define SLOT_TAG (~(SLOT_TAT | SLOT_BORROWED))

/*
 * What a slot owes, in units: how far its TAT lies ahead of now. What is further ahead than stale has
 * wrapped around and is past. Without branches, for in a flood none can be predicted.
 */
static inline __u64 slot_level(__u64 slot, __u64 now, __u64 stale)
{
	__u64 distance = (slot - now) & SLOT_TAT;

	return distance & ~((__s64)(stale - distance) >> 63);
}

/* A slot without a tag has no owner, so nobody owes what it may seem to once the clock has turned around. */
static inline __u64 slot_debt(__u64 slot, __u64 now, __u64 stale)
{
	return slot >> SLOT_TAG_SHIFT ? slot_level(slot, now, stale) : 0;
}

/*
 * The order in which a bucket's slots are taken over: oldest raw TAT first, lowest way on a tie. Raw,
 * so that two CPUs whose clocks differ by a tick agree on it. horizon is the youngest TAT that there can
 * be, now + stale: behind it the circle of TATs begins with the oldest. Bit 63 stays clear, so that two
 * ranks may be subtracted.
 */
static inline __s64 slot_rank(__u64 slot, __u64 horizon, __u32 way)
{
	return (slot - horizon - 1) << (64 - SLOT_TAT_BITS) >> 1 | way;
}

static inline __s64 rank_min(__s64 a, __s64 b)
{
	__s64 difference = b - a;

	return a + (difference & (difference >> 63));
}

static inline int slot_is(__u64 slot, __u64 tag)
{
	return (slot ^ tag) <= (SLOT_TAT | SLOT_BORROWED);
}

/* The bits of a hash that tell keys of one bucket apart. Never zero, for such a slot has no owner. */
static inline __u64 slot_tag(__u64 hash)
{
	__u64 tag = hash & SLOT_TAG;

	return tag ?: 1ULL << SLOT_TAG_SHIFT;
}

/*
 * GCRA: whether one more of cost fits on top of level. One buffer may cost more than a whole burst, where GRO
 * has merged packets: it is admitted where nothing is owed, and is paid for in full afterwards.
 */
static inline int gcra_admits(__u64 level, __u64 cost, __u64 capacity)
{
	return level + cost <= capacity || !level;
}

/* GCRA on a whole TAT: the TAT after one more, or 0 if it does not fit. */
static inline __u64 gcra_next(__u64 tat, __u64 now, __u64 cost, __u64 capacity)
{
	__u64 level = tat > now ? tat - now : 0;

	return gcra_admits(level, cost, capacity) ? now + level + cost : 0;
}

static inline __u64 slot_charged(__u64 tag, __u64 now, __u64 level, __u64 cost, int borrowed)
{
	return tag | (borrowed ? SLOT_BORROWED : 0) | ((now + level + cost) & SLOT_TAT);
}

/* What amount costs in units, rounded up; not more than a slot can hold, which no buffer comes to. */
static inline __u64 gcra_cost(__u64 amount, __u64 cost, __u32 shift, __u64 most)
{
	__u64 round = (1ULL << (shift & 63)) - 1;
	__u64 units = (amount * cost + round) >> (shift & 63);

	return units < most ? units : most;
}

/* What is done with a packet by a verdict that does not say. */
static inline enum action decide_action(__u32 verdict, __u32 mode)
{
	if (!(verdict & REFUSED))
		return ACTION_PASS;
	return mode == MODE_OBSERVE ? ACTION_OBSERVE : ACTION_DROP;
}
