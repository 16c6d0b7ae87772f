/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What a source that was probed has proved that it tries: probes that it answered, handshakes that it completed. They
 * charge a meter of their own of each limit that probes, with the same rate and burst, and only who is over that one
 * strikes. So what is sent in somebody's name uses up his limit, and never makes his own attempts strikes.
 *
 * Nobody's ACKs are looked at before the first probe, so what came before it is not charged.
 */

#include "probe.h"
#include "sets.h"

static __always_inline __u64 sets_asked(const struct service *s, const struct packet *p, __u32 slot)
{
	return features & FEATURE_SETS && s->flags & SERVICE_SETS ? sets_of(p, slot) : 0;
}

static __always_inline int charge_attempt(const struct limit *l, const struct packet *p, __u32 slot,
					  __u64 now)
{
	const struct limit *second = limit_in(slot, l->probed);

	return meter_charge(second, hash_key(second, p), now, second->cost);
}

/* A handshake charges all that its SYN has met. */
__noinline int charge_opened(struct packet *p, __u64 now)
{
	const struct service *s;
	__u32 slot;
	__u64 in;

	if (!PROBES || !p)
		return 0;
	slot = slot_of(p);
	s = service_at(slot, listen_of(p, slot));
	if (!s)
		return 0;
	in = sets_asked(s, p, slot);
	if (in & s->allow)
		return 0;
	for (__u32 n = 0; n < MAX_PACKET_LIMITS; n++) {
		const struct limit *l = limit_at(s, slot, n);

		if (!l)
			break;
		if (limit_probes(l) && limit_is_of(l, in))
			charge_attempt(l, p, slot, now);
	}
	return 0;
}
