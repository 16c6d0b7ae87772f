/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Which counts a connection belongs to, from its addresses and ports: the limits of concurrent connections of
 * its service and the global ones, and its line of the ledger. Takes nothing.
 */

#include "conns_key.h"
#include "conns_pending.h"
#include "lists.h"
#include "many.h"
#include "sets.h"

static __always_inline struct conn_claim *claim_at(struct conn_note *note, __u32 n)
{
	struct conn_claim *c = &note->claim[n & (CONN_CLAIMS - 1)];

	KEEP(c);
	return c;
}

static __always_inline bool same_key(const struct conn_key *a, const struct conn_key *b)
{
	return a->limit == b->limit && a->addr.family == b->addr.family &&
	       a->addr.word[0] == b->addr.word[0] && a->addr.word[1] == b->addr.word[1] &&
	       a->addr.word[2] == b->addr.word[2] && a->addr.word[3] == b->addr.word[3];
}

__noinline int claims_have(struct conn_note *note, const struct conn_key *key)
{
	if (!note || !key)
		return 0;
	for (__u32 i = 0; i < CONN_CLAIMS; i++) {
		if (i >= note->count)
			break;
		if (same_key(&claim_at(note, i)->key, key))
			return 1;
	}
	return 0;
}

/* The place of one claim more, whose key has to be written; what is claimed already is claimed once. */
static __always_inline void claim_add(struct conn_note *note, const struct conn_key *key,
				      __u64 most, __u32 limit_id)
{
	struct conn_claim *c;

	if (note->count >= CONN_CLAIMS || claims_have(note, key))
		return;
	c = claim_at(note, note->count);
	c->key = *key;
	c->most = most;
	c->limit_id = limit_id;
	note->count++;
}

/* enforce: or all limits of the policy refuse nothing. */
__noinline int claim_limit(struct conn_note *note, const struct limit *l, const struct packet *p,
			   __u64 in, __u32 enforce)
{
	struct conn_key key;

	if (!note || !l || !p || l->kind != LIMIT_CONCURRENT || !limit_applies(l, p, in))
		return 0;
	conn_key_of(&key, l, &p->src);
	if (enforce && !(l->flags & LIMIT_OBSERVES))
		claim_add(note, &key, l->capacity, l->id + 1);
	else
		claim_add(note, &key, CONN_NO_LIMIT, 0);
	return 0;
}

/* The line that `sources` shows. A place is kept for it, see maxConcurrent in conns.go. */
static __always_inline void claim_line(struct conn_note *note, const struct packet *p,
				       const struct policy *policy, __u32 service)
{
	struct conn_key key = { .limit = service };

	mask_addr(&key.addr, &p->src, policy->mask4, policy->mask6);
	claim_add(note, &key, CONN_NO_LIMIT, 0);
}

/*
 * What the connection met on its way in: the service of its SYN while that is known, which behind DNAT only the
 * pending table tells, else that of the local port. 0: none.
 */
static __always_inline __u32 conn_listen(const struct packet *p, __u32 slot, __u64 now)
{
	__u64 *where, found = pending_find(p, now, true, &where);
	__u32 id = found >> PENDING_SERVICE_SHIFT & PENDING_SERVICE, at, *place;

	if (!found)
		return listen_of(p, slot);
	if (id >= SERVICE_IDS)
		return 0;
	at = (slot & (POLICY_SLOTS - 1)) * SERVICE_IDS + id;
	place = bpf_map_lookup_elem(&service_places, &at);
	return place && *place ? *place : listen_of(p, slot);
}

/* Connections of a host to itself pass no interface that a limiter is on. */
static __always_inline bool is_own(const struct packet *p)
{
	const struct addr *a = &p->src, *b = &p->dst;

	if (a->family == 4 && (bpf_ntohl(a->word[0]) >> 24) == 127)
		return true;
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

/* Adds what a connection claims under the policy of a slot. enforce: that is the one in force. */
__noinline int claims_under(struct conn_note *note, const struct packet *p, __u32 slot, __u64 now,
			    __u32 enforce)
{
	const struct policy *policy = policy_at(slot);
	const struct service *s;
	__u64 in = 0;

	if (!note || !p || !(policy->features & FEATURE_CONCURRENT))
		return 0;
	s = service_at(slot, conn_listen(p, slot, now));
	if (!s || !(s->flags & SERVICE_CONCURRENT))
		return 0;
	if (lists_may_hold(&p->src) && lists_judge(p, slot, now) == REASON_ALLOWED)
		return 0;
	if (s->flags & SERVICE_SETS)
		in = sets_of(p, slot);
	if (in & s->allow)
		return 0;
	for (__u32 n = 0; n < MAX_PACKET_LIMITS; n++) {
		const struct limit *l = limit_at(s, slot, n);

		if (!l)
			break;
		claim_limit(note, l, p, in, enforce && policy->mode == MODE_ENFORCE);
	}
	claim_line(note, p, policy, s->id);
	return 0;
}

/*
 * Fills the note with what a connection claims under the policy of a slot, and under the one that comes back if
 * that is not confirmed, so that its counts are right then; nothing of what is allowed, of what no service counts,
 * and of the host's own. A note is of one CPU and one runner. Worst case: of two policies that have nothing in
 * common, more than CONN_CLAIMS together, the last limits of the second do not count until it comes back.
 */
__noinline int claims_of(struct conn_note *note, const struct packet *p, __u32 slot, __u64 now)
{
	__u32 fallback = fallback_slot();

	if (!note || !p)
		return 0;
	note->count = 0;
	if (is_own(p))
		return 0;
	claims_under(note, p, slot, now, true);
	if (fallback < POLICY_SLOTS && fallback != slot)
		claims_under(note, p, fallback, now, false);
	return 0;
}
