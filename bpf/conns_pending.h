/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * SYNs that were let through and have made no connection yet. Two fixed tables, neither of which decides
 * anything for good:
 *
 *     pending: tag (24 bits) | destination (8) | service (10) | waits (1) | time (21, in 2^20 ns)
 *     waiting: tag (20 bits) | epoch (16) | of the epoch before (14) | of this one (14)
 *
 * pending is keyed by the client's address and port, and knows a SYN that is sent again, and the service that
 * it met: behind DNAT the socket has another port. waiting counts, for one key of one limit, the SYNs of the
 * last one to two epochs, so that what never becomes a connection is forgotten within two seconds. Where a place
 * in a table is another's the SYN is not counted, and the gate alone decides.
 */

#include "limits.h"

#define PENDING_TIME_SHIFT 20
#define PENDING_TIME ((1ULL << 21) - 1)
#define PENDING_AHEAD 1024
#define PENDING_WAITS (1ULL << 21)
#define PENDING_SERVICE_SHIFT 22
#define PENDING_SERVICE 0x3ffULL
#define PENDING_DESTINATION (0xffULL << 32)
#define PENDING_TAG (~0ULL << 40)
/* A request is given up after 63 s, with the kernel's own number of repeats. */
#define PENDING_SERVICE_FOR ((128ULL * 1000000000) >> PENDING_TIME_SHIFT)

#define WAITING_EPOCH_NS 900000000ULL
#define WAITING_MOST 0x3fffULL
#define WAITING_EPOCH 0xffffULL
#define WAITING_TAG (~0ULL << 44)
#define WAITING_TRIES 4

static __always_inline __u64 pending_hash(const struct packet *p)
{
	return hash_whole(&p->src, (__u64)p->sport << 40 | 0x70656e64);
}

/* The bits of a slot that tell SYNs of one bucket apart. */
static __always_inline __u64 pending_tag(const struct packet *p, __u64 hash)
{
	__u64 to = hash_whole(&p->dst, (__u64)p->dport << 40 | 0x736c6f74);

	return (hash & PENDING_TAG) | (to & 0xff) << 32;
}

static __always_inline struct pending_bucket *pending_at(__u64 hash)
{
	__u32 at = hash & (PENDING_BUCKETS - 1);

	return bpf_map_lookup_elem(&pending, &at);
}

/* The gate's clock may be a tick or two behind that of who wrote the slot: what is just ahead is new. */
static __always_inline __u64 pending_age(__u64 slot, __u64 now)
{
	__u64 age = ((now >> PENDING_TIME_SHIFT) - slot) & PENDING_TIME;

	return age > PENDING_TIME - PENDING_AHEAD ? 0 : age;
}

static __always_inline __u64 epoch_of(__u64 now)
{
	return now / WAITING_EPOCH_NS;
}

/* The slot of this client's port and this destination, else (any) of this port alone; 0 if there is none. */
static __always_inline __u64 pending_find(const struct packet *p, __u64 now, bool any,
					  __u64 **where)
{
	__u64 hash = pending_hash(p), tag = pending_tag(p, hash), found = 0;
	struct pending_bucket *b = pending_at(hash);

	if (!b)
		return 0;
	for (int way = 0; way < PENDING_WAYS; way++) {
		__u64 slot = *(volatile __u64 *)&b->slot[way], differs = slot ^ tag;

		if (!slot || differs & PENDING_TAG || pending_age(slot, now) > PENDING_SERVICE_FOR)
			continue;
		if (!(differs & PENDING_DESTINATION)) {
			*where = &b->slot[way];
			return slot;
		}
		if (any) {
			*where = &b->slot[way];
			found = slot;
		}
	}
	return found;
}

static __always_inline bool pending_waits(__u64 slot, __u64 now)
{
	return slot & PENDING_WAITS &&
	       pending_age(slot, now) < (2 * WAITING_EPOCH_NS) >> PENDING_TIME_SHIFT;
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
