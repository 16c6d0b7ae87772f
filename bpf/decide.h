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
#define SLOT_TAG (~(SLOT_TAT | SLOT_BORROWED))

/* Older than anything that a TAT can express. */
#define SLOT_EMPTY_AGE (-(1LL << SLOT_TAT_BITS))

/*
 * How far a slot's TAT lies ahead of now (above zero) or behind it, in units. The order is that of
 * the raw TATs: two CPUs whose clocks differ by a tick still agree on which slot is the oldest.
 */
static inline __s64 slot_ahead(__u64 slot, __u64 now, __u64 stale)
{
	__u64 distance = (slot - now) & SLOT_TAT;

	if (!slot)
		return SLOT_EMPTY_AGE;
	if (distance > stale)
		return (__s64)distance - (1LL << SLOT_TAT_BITS);
	return (__s64)distance;
}

/* The bits of a hash that tell keys of one bucket apart. Never zero, for zero is an empty slot. */
static inline __u64 slot_tag(__u64 hash)
{
	__u64 tag = hash & SLOT_TAG;

	return tag ? tag : SLOT_BORROWED << 1;
}

/* GCRA: whether one more of cost fits on top of level. */
static inline int gcra_admits(__u64 level, __u64 cost, __u64 capacity)
{
	return level + cost <= capacity;
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
