/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The lists stage: allowed passes at once, blocked is refused, all else goes on. A list is a set of
 * prefixes: an entry that does not cover this packet (expired, or only for new connections) hides
 * none of the wider ones.
 */

#include "index.h"
#include "packet.h"
#include "service.h"

/* The length of a key counts the bits of the family too, where prefixes are. */
#define PREFIX_FAMILY_BITS 32

/* What a packet is held against an entry by. */
struct listed {
	__u64 now;
	bool asks; /* for a new connection, or it may, as far as is known yet */
	__u8 policies; /* the bit of the slot in force */
};

static __always_inline bool entry_covers(const struct list_entry *e, const struct listed *by)
{
	if (e->policies & by->policies)
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

/* A climb from the longest prefix that may hold a source to ever wider ones. */
struct climb {
	const struct packet *p;
	struct listed by;
	__u64 left; /* as prefixes_that_may tells them */
	__u32 what;
	bool found;
};

/* The prefix of an address that number and part stand for; see entry_bit. */
static __always_inline void key_of(struct prefix_key *key, const struct addr *a, __u32 number,
				   __u32 part)
{
	__u64 bits = first_bits(number);
	__be32 first = bpf_htonl(bits >> 32), second = bpf_htonl((__u32)bits);

	key->prefixlen = PREFIX_FAMILY_BITS + 63 - number + 64 * part;
	key->addr.family = a->family;
	key->addr.word[0] = part ? a->word[0] : a->word[0] & first;
	key->addr.word[1] = part ? a->word[1] : a->word[1] & second;
	key->addr.word[2] = part ? a->word[2] & first : 0;
	key->addr.word[3] = part ? a->word[3] & second : 0;
}

static __always_inline long climb_step(struct climb *c, void *prefixes)
{
	__u64 low = c->left & -c->left;
	struct prefix_key key;

	if (!low)
		return 1;
	c->left ^= low;
	key_of(&key, &c->p->src, bit_number(low), c->what & 1);
	c->found = entry_hit(bpf_map_lookup_elem(prefixes, &key), &c->by);
	return c->found;
}

static long climb_allow(__u32 index, void *c)
{
	return climb_step(c, &allow_prefixes);
}

static long climb_block(__u32 index, void *c)
{
	return climb_step(c, &block_prefixes);
}

/* Worst case one lookup a prefix length, when that many nested entries lapsed. how: policies and asks of listed. */
__noinline int prefixes_hold(const struct packet *p, __u64 word, __u32 what, __u64 now, __u32 how)
{
	struct climb c = { .p = p,
			   .what = what,
			   .by = { .now = now, .policies = how, .asks = how >> 8 } };

	if (!p)
		return 0;
	c.left = prefixes_that_may(word, &p->src, what);
	if (!c.left)
		return 0;
	if (what >> 2 == LIST_ALLOW)
		bpf_loop(64, climb_allow, &c, 0);
	else
		bpf_loop(64, climb_block, &c, 0);
	return c.found;
}

/* What a source asks the lists by. */
struct asked {
	const struct packet *p;
	struct listed by;
	__u32 may;
};

static __always_inline bool list_holds(const struct asked *q, __u32 list, void *hosts,
				       __u32 may_host)
{
	__u32 how = q->by.policies | (__u32)q->by.asks << 8, family = q->p->src.family;
	struct prefix_key key = { .addr = q->p->src };
	__u64 word;

	if (q->may & may_host && hosts_hold(hosts, &key, &q->by))
		return true;
	if (!(q->may & MAY_PREFIX))
		return false;
	word = index_control();
	if (family != 4 && prefixes_hold(q->p, word, index_what(list, family, 1), q->by.now, how))
		return true;
	return prefixes_hold(q->p, word, index_what(list, family, 0), q->by.now, how);
}

/* p's family is 4 or 6; may is what lists_may_hold said of its source. */
__noinline int lists_judge(struct packet *p, __u32 may)
{
	struct asked q = { .p = p, .may = may };
	__u32 slot;

	if (!p)
		return REASON_NONE;
	slot = slot_of(p);
	q.by.now = clock_ns(policy_at(slot));
	q.by.policies = 1 << slot;
	q.by.asks = p->kind == KIND_NEW || (p->kind == KIND_DATAGRAM && p->quic == QUIC_MAY_ASK);
	if (list_holds(&q, LIST_ALLOW, &allow_hosts, MAY_ALLOW_HOST))
		return REASON_ALLOWED;
	return list_holds(&q, LIST_BLOCK, &block_hosts, MAY_BLOCK_HOST) ? REFUSE(REASON_BLOCKED) :
									  REASON_NONE;
}
