/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The lists stage: allowed passes at once, blocked is refused, all else goes on. A list is a set of
 * prefixes: an entry that does not cover this packet (expired, or only for new connections) hides
 * none of the wider ones.
 */

#include "maps.h"
#include "packet.h"

#define LPM_FAMILY_BITS 32
#define LPM_MAX_BITS (LPM_FAMILY_BITS + 128)

static __always_inline bool index_bit(__u32 bit)
{
	__u32 word = bit >> 6;

	if (word >= LIST_INDEX_WORDS)
		return true;
	return *(volatile __u64 *)&tables.list_index[word] >> (bit & 63) & 1;
}

/* The upper 22 bits of a multiplicative hash: an attacker who collides with it gains nothing. */
static __always_inline __u32 index_hash_v6(__u32 top)
{
	return bpf_ntohl(top) * 0x9e3779b1U >> 10;
}

/* Empty lists cost one word that every packet reads; the bitmap is too large for a cache. */
static __always_inline bool lists_may_hold(const struct addr *a)
{
	__u64 families = *(volatile __u64 *)&control.families;

	if (a->family == 4)
		return families & 1 && index_bit(bpf_ntohl(a->word[0]) >> 8);
	return families & 2 && index_bit(LIST_INDEX_WORDS4 * 64 + index_hash_v6(a->word[0]));
}

/* What a packet is held against an entry by. */
struct listed {
	__u64 now;
	__u32 feeds; /* that hold for it */
	bool asks; /* for a new connection, or it may, as far as is known yet */
	__u8 policies; /* the bit of the slot in force */
	bool silent; /* adds no hit */
};

/* The feeds that hold for this packet. */
static __always_inline __u32 feeds_holding(const struct listed *by)
{
	volatile struct feed_words *live = &control.feeds;
	__u32 feeds = live->lasting[SCOPE_ALL];
	__u32 timed = live->timed[SCOPE_ALL];

	if (by->asks) {
		feeds |= live->lasting[SCOPE_NEW];
		timed |= live->timed[SCOPE_NEW];
	}
	for (__u32 f = 0; timed && f < MAX_FEEDS; f++)
		if (timed >> f & 1 && live->until_ns[f] > by->now)
			feeds |= 1U << f;
	return feeds;
}

static __always_inline bool entry_covers(const struct list_entry *e, const struct listed *by)
{
	if (e->policies & by->policies || e->feeds & by->feeds)
		return true;
	if (!e->listed || (e->expires_ns && e->expires_ns <= by->now))
		return false;
	return e->scope == SCOPE_ALL || by->asks;
}

/* Hits of two CPUs are added atomically; one that meets a rewrite of the entry by Go is lost. */
static __always_inline bool entry_hit(struct list_entry *e, const struct listed *by)
{
	if (!e || !entry_covers(e, by))
		return false;
	if (!by->silent)
		__sync_fetch_and_add(&e->hits, 1);
	return true;
}

static __always_inline bool hosts_hold(void *hosts, struct prefix_key *key, const struct listed *by)
{
	key->prefixlen = key->addr.family == 4 ? 32 : 128;
	if (entry_hit(bpf_map_lookup_elem(hosts, key), by))
		return true;
	if (key->addr.family == 4)
		return false;
	key->prefixlen = 64;
	key->addr.word[2] = 0;
	key->addr.word[3] = 0;
	return entry_hit(bpf_map_lookup_elem(hosts, key), by);
}

/* State of a climb from the longest matching prefix to ever wider ones. */
struct climb {
	struct prefix_key key;
	struct listed by;
	bool found;
};

/*
 * The trie answers with the longest match of at most key.prefixlen bits. A match that does not cover
 * the packet is passed by asking for anything shorter.
 */
static __always_inline long climb_step(struct climb *c, void *prefixes)
{
	struct list_entry *e = bpf_map_lookup_elem(prefixes, &c->key);

	if (!e)
		return 1;
	c->found = entry_hit(e, &c->by);
	if (c->found || e->prefixlen <= LPM_FAMILY_BITS || e->prefixlen > c->key.prefixlen)
		return 1;
	c->key.prefixlen = e->prefixlen - 1;
	return 0;
}

static long climb_allow(__u32 index, void *c)
{
	return climb_step(c, &allow_prefixes);
}

static long climb_block(__u32 index, void *c)
{
	return climb_step(c, &block_prefixes);
}

static __always_inline struct climb climb_from(const struct packet *p, const struct listed *by)
{
	struct climb c = {
		.key = { .prefixlen = p->src.family == 4 ? LPM_FAMILY_BITS + 32 : LPM_MAX_BITS,
			 .addr = p->src },
		.by = *by,
	};

	return c;
}

/* Whether what is sent to p's source needs no counting. Leaves no hit: nothing came from there. */
__noinline int lists_allow(const struct packet *p, __u32 slot, __u64 now)
{
	struct listed by = { .now = now,
			     .policies = 1 << (slot & (POLICY_SLOTS - 1)),
			     .silent = true,
			     .asks = true };
	struct prefix_key key = {};
	struct climb c;

	if (!p)
		return 0;
	by.feeds = feeds_holding(&by);
	key.addr = p->src;
	if (hosts_hold(&allow_hosts, &key, &by))
		return 1;
	c = climb_from(p, &by);
	bpf_loop(LPM_MAX_BITS + 1, climb_allow, &c, 0);
	return c.found;
}

/* p's family is 4 or 6. Worst case one lookup a prefix length, when that many nested entries lapsed. */
__noinline int lists_judge(const struct packet *p, __u32 slot, __u64 now)
{
	struct listed by = { .now = now, .policies = 1 << (slot & (POLICY_SLOTS - 1)) };
	struct prefix_key key = {};
	struct climb c;

	if (!p)
		return REASON_NONE;
	by.asks = p->kind == KIND_NEW || (p->kind == KIND_DATAGRAM && p->quic == QUIC_MAY_ASK);
	by.feeds = feeds_holding(&by);
	key.addr = p->src;
	if (hosts_hold(&allow_hosts, &key, &by))
		return REASON_ALLOWED;
	c = climb_from(p, &by);
	bpf_loop(LPM_MAX_BITS + 1, climb_allow, &c, 0);
	if (c.found)
		return REASON_ALLOWED;
	key.addr = p->src;
	if (hosts_hold(&block_hosts, &key, &by))
		return REFUSE(REASON_BLOCKED);
	c = climb_from(p, &by);
	bpf_loop(LPM_MAX_BITS + 1, climb_block, &c, 0);
	return c.found ? REFUSE(REASON_BLOCKED) : REASON_NONE;
}
