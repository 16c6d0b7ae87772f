/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * SYNs that were let through and have made no connection yet, in a fixed table:
 *
 *     slot = tag (24 bits) | destination (8) | service (10) | waits (1) | time (21, in 2^20 ns)
 *
 * It is keyed by the client's address and port, and knows a SYN that is sent again, and the service that it met:
 * behind DNAT the socket has another port. Full: the oldest slot of a bucket goes.
 */

#include "conns_waiting.h"
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
