/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * A SYN that is let through, noted: the service that it met, and that it waits under every limit of concurrent
 * connections. Of all services, for behind DNAT another one may have the port.
 */

#include "conns_key.h"
#include "conns_pending.h"
#include "many.h"
#include "sets.h"

/* Where a SYN's slot goes: its own if it has one, else the oldest. */
static __always_inline __u64 *pending_place(struct pending_bucket *b, __u64 tag, __u64 now)
{
	__u64 oldest = 0, *at = &b->slot[0];

	for (int way = 0; way < PENDING_WAYS; way++) {
		__u64 slot = *(volatile __u64 *)&b->slot[way];
		__u64 age = slot ? pending_age(slot, now) : PENDING_TIME + 1;

		if (slot && !((slot ^ tag) & (PENDING_TAG | PENDING_DESTINATION)))
			return &b->slot[way];
		if (age > oldest) {
			oldest = age;
			at = &b->slot[way];
		}
	}
	return at;
}

/* Whether the SYN is a new one that waits; one that is sent again waits already. */
static __always_inline bool pending_write(const struct packet *p, __u32 service, __u64 now)
{
	__u64 hash = pending_hash(p), tag = pending_tag(p, hash), *at, slot, fresh;
	struct pending_bucket *b = pending_at(hash);

	if (!b)
		return false;
	at = pending_place(b, tag, now);
	slot = *(volatile __u64 *)at;
	if (slot && !((slot ^ tag) & (PENDING_TAG | PENDING_DESTINATION)) &&
	    pending_waits(slot, now))
		return false;
	fresh = tag | (__u64)service << PENDING_SERVICE_SHIFT | PENDING_WAITS |
		(now >> PENDING_TIME_SHIFT & PENDING_TIME);
	return __sync_val_compare_and_swap(at, slot, fresh) == slot;
}

/* Verified once for all limits of a packet. */
__noinline int limit_wait(const struct limit *l, const struct packet *p, __u64 now, __u64 in)
{
	struct conn_key key;

	if (!l || !p || !is_concurrent(l) || !limit_applies(l, p, in))
		return 0;
	conn_key_of(&key, l, &p->src);
	waiting_add(conn_key_hash(&key), now);
	return 0;
}

/* Looks the service up again: what the caller knows of it would lie on its stack. */
__noinline int conns_wait(struct packet *p)
{
	const struct service *s;
	__u64 in = 0, now = bpf_ktime_get_coarse_ns();
	__u32 slot;

	if (!p)
		return 0;
	slot = slot_of(p);
	s = service_at(slot, listen_of(p, slot));
	if (!pending_write(p, s ? s->id : SERVICE_IDS, now) || !s ||
	    !(s->flags & SERVICE_CONCURRENT))
		return 0;
	if (features & FEATURE_SETS && s->flags & SERVICE_SETS)
		in = sets_of(p, slot);
	for (__u32 n = 0; n < MAX_PACKET_LIMITS; n++) {
		const struct limit *l = limit_at(s, slot, n);

		if (!l)
			break;
		limit_wait(l, p, now, in);
	}
	return 0;
}
