/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Whether a packet's source is banned, from the service that it asks for or from all. Adds to the ban's hits. */

#include "lists.h"
#include "service.h"

/* An IPv6 customer has a /64. */
static __always_inline void cut_to_striker(struct addr *a)
{
	if (a->family == 4)
		return;
	a->word[2] = 0;
	a->word[3] = 0;
}

static __always_inline bool ban_holds(const struct ban_key *key, __u64 now)
{
	struct ban *b = bpf_map_lookup_elem(&bans, key);

	if (!b || *(volatile __u64 *)&b->expires_ns <= now)
		return false;
	__sync_fetch_and_add(&b->hits, 1);
	return true;
}

/* What has no ports is for no service. */
static __always_inline const struct service *service_asked(const struct packet *p, __u32 slot)
{
	if (p->kind != KIND_NEW && p->kind != KIND_ESTABLISHED && p->kind != KIND_DATAGRAM &&
	    p->kind != KIND_PROOF)
		return NULL;
	if (!(features & FEATURE_PORTS) && p->proto != IPPROTO_TCP)
		return NULL;
	return service_at(slot, listen_of(p, slot));
}

/* Only where the index says that a list may hold the source. Bans outlive the policy that made them. */
__noinline int banned(const struct packet *p, __u32 slot, __u64 now)
{
	struct ban_key key = {};
	const struct service *s;

	if (!p)
		return 0;
	key.addr = p->src;
	cut_to_striker(&key.addr);
	key.service = BAN_FROM_ALL;
	if (ban_holds(&key, now))
		return 1;
	s = service_asked(p, slot);
	if (!s)
		return 0;
	key.service = s->id;
	return ban_holds(&key, now);
}
