/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The arithmetic of a verdict: GCRA on one slot, and which action a reason asks for. Pure: no map, no
 * helper, no clock. It also compiles as plain C on a host.
 */

#include "abi.h"

#define SLOT_TAT_BITS 40
#define SLOT_TAT ((1ULL << SLOT_TAT_BITS) - 1)
#define SLOT_BORROWED (1ULL << SLOT_TAT_BITS)
#define SLOT_TAG_SHIFT (SLOT_TAT_BITS + 1)
#define SLOT_TAG (~(SLOT_TAT | SLOT_BORROWED))

/*
 * How far a slot's TAT lies ahead of now (above zero) or behind it, in units. What is further ahead
 * than stale has wrapped around and is past, and so is a slot without a tag, which nobody owns.
 * Without branches, for in a flood none can be predicted; all terms of the differences are below 2^63.
 */
static inline __s64 slot_ahead(__u64 slot, __u64 now, __u64 stale)
{
	__u64 distance = (slot - now) & SLOT_TAT;
	__s64 past = (__s64)(stale - distance) >> 63;
	__s64 empty = (__s64)((slot >> SLOT_TAG_SHIFT) - 1) >> 63;

	return (__s64)distance + (past | empty) * (1LL << SLOT_TAT_BITS);
}

/*
 * The order in which a bucket's slots are taken over: oldest raw TAT first, lowest way on a tie. Raw,
 * so that two CPUs whose clocks differ by a tick agree on it.
 */
static inline __s64 slot_rank(__u64 slot, __u64 now, __u64 stale, __u32 way)
{
	return slot_ahead(slot, now, stale) * METER_WAYS + way;
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

/* GCRA: whether one more of cost fits on top of level. */
static inline int gcra_admits(__u64 level, __u64 cost, __u64 capacity)
{
	return level + cost <= capacity;
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

/* What is done with a packet that a stage has refused, or let through. */
static inline enum action decide_action(int refused, __u32 mode)
{
	if (!refused)
		return ACTION_PASS;
	return mode == MODE_OBSERVE ? ACTION_OBSERVE : ACTION_DROP;
}
