/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * How many SYNs wait for each key of a limit, in a fixed table:
 *
 *     cell = tag (20 bits) | epoch (16) | of the epoch before (14) | of this one (14)
 *
 * They are those of the last one to two epochs, so what never becomes a connection is forgotten within two seconds.
 * Where a cell is another key's the SYN is not counted, and the gate alone decides.
 */

#include "maps.h"

#define WAITING_EPOCH_NS 900000000ULL
#define WAITING_MOST 0x3fffULL
#define WAITING_EPOCH 0xffffULL
#define WAITING_TAG (~0ULL << 44)
#define WAITING_TRIES 4

static __always_inline __u64 epoch_of(__u64 now)
{
	return now / WAITING_EPOCH_NS;
}

static __always_inline __u64 waiting_level_of(__u64 cell, __u64 now)
{
	__u64 age = (epoch_of(now) - (cell >> 28)) & WAITING_EPOCH;

	if (age > 1)
		return 0;
	return (cell & WAITING_MOST) + (age ? 0 : cell >> 14 & WAITING_MOST);
}

static __always_inline __u64 *waiting_at(__u64 hash)
{
	__u32 at = hash & (WAITING_CELLS - 1);

	return bpf_map_lookup_elem(&waiting, &at);
}

/* How many SYNs of one key wait, as far as is known. */
static __always_inline __u64 waiting_level(__u64 hash, __u64 now)
{
	__u64 *at = waiting_at(hash), cell;

	if (!at)
		return 0;
	cell = *(volatile __u64 *)at;
	return (cell ^ hash) & WAITING_TAG ? 0 : waiting_level_of(cell, now);
}

/* The cell in this epoch, with one SYN more. */
static __always_inline __u64 waiting_more(__u64 cell, __u64 hash, __u64 now)
{
	__u64 epoch = epoch_of(now) & WAITING_EPOCH, age = (epoch - (cell >> 28)) & WAITING_EPOCH;
	__u64 before = age == 0 ? cell >> 14 & WAITING_MOST : age == 1 ? cell & WAITING_MOST : 0;
	__u64 of_this = age == 0 ? cell & WAITING_MOST : 0;

	if ((cell ^ hash) & WAITING_TAG)
		before = of_this = 0;
	if (of_this < WAITING_MOST)
		of_this++;
	return (hash & WAITING_TAG) | epoch << 28 | before << 14 | of_this;
}

static __always_inline void waiting_add(__u64 hash, __u64 now)
{
	__u64 *at = waiting_at(hash);

	if (!at)
		return;
	for (int try = 0; try < WAITING_TRIES; try++) {
		__u64 cell = *(volatile __u64 *)at;

		if ((cell ^ hash) & WAITING_TAG && waiting_level_of(cell, now))
			return;
		if (__sync_val_compare_and_swap(at, cell, waiting_more(cell, hash, now)) == cell)
			return;
	}
}

/* One that waited since then waits no more. */
static __always_inline void waiting_take(__u64 hash, __u64 then, __u64 now)
{
	__u64 *at = waiting_at(hash);

	if (!at)
		return;
	for (int try = 0; try < WAITING_TRIES; try++) {
		__u64 cell = *(volatile __u64 *)at, one = 1;

		if ((cell ^ hash) & WAITING_TAG || !waiting_level_of(cell, now))
			return;
		if (!(cell & WAITING_MOST) ||
		    ((epoch_of(then) ^ (cell >> 28)) & WAITING_EPOCH && cell >> 14 & WAITING_MOST))
			one = 1ULL << 14;
		if (__sync_val_compare_and_swap(at, cell, cell - one) == cell)
			return;
	}
}
