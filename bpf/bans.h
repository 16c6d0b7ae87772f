/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Whether a packet's source is banned, from the service that it asks for or from all. Adds to the ban's hits. */

#include "lists.h"
#include "service.h"
#include "sets.h"

/* An IPv6 customer has a /64. */
static __always_inline void cut_to_striker(struct addr *a)
{
	if (a->family == 4)
		return;
	a->word[2] = 0;
	a->word[3] = 0;
}

static __always_inline struct ban *ban_in_force(const struct ban_key *key, __u64 now)
{
	struct ban *b = bpf_map_lookup_elem(&bans, key);

	return b && *(volatile __u64 *)&b->expires_ns > now ? b : NULL;
}

/* What has no ports is for no service. */
static __always_inline const struct service *service_asked(const struct packet *p, __u32 slot)
{
	if (p->kind != KIND_NEW && p->kind != KIND_ESTABLISHED && p->kind != KIND_DATAGRAM &&
	    p->kind != KIND_PROOF && p->kind != KIND_PROBED)
		return NULL;
	if (!(features & FEATURE_PORTS) && p->proto != IPPROTO_TCP)
		return NULL;
	return service_at(slot, listen_of(p, slot));
}

/* Whom a service allows keeps that service, whatever he did at another. */
static __always_inline bool allowed_by(const struct service *s, const struct packet *p, __u32 slot)
{
	return features & FEATURE_SETS && s->flags & SERVICE_SETS && sets_of(p, slot) & s->allow;
}

/* Only where the index says that a list may hold the source. Bans outlive the policy that made them. */
__noinline int banned(const struct packet *p, __u32 slot, __u64 now)
{
	struct ban_key key = {};
	const struct service *s;
	struct ban *b;

	if (!p)
		return 0;
	key.addr = p->src;
	cut_to_striker(&key.addr);
	key.service = BAN_FROM_ALL;
	b = ban_in_force(&key, now);
	s = service_asked(p, slot);
	if (!b && s) {
		key.service = s->id;
		b = ban_in_force(&key, now);
	}
	if (!b || (s && allowed_by(s, p, slot)))
		return 0;
	__sync_fetch_and_add(&b->hits, 1);
	return 1;
}
