/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * A ban as it is made: how long, and into the map that the lists stage reads. Never of those whom the host cannot do
 * without; whoever is on the allow list never comes here.
 */

#include "account.h"
#include "bans.h"

#define MILLISECOND_NS 1000000ULL

/* What values of maps begin as, too large for a stack. */
const struct striker no_strikes = {};
const struct ban no_ban = {};

static __always_inline struct ban_tally *own_tally(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&ban_tallies, &zero);
}

/* Every prefix in that map is as wide as a striker, or wider. */
static __always_inline bool is_protected(const struct addr *striker)
{
	struct prefix_key key = { .prefixlen = LPM_FAMILY_BITS + (striker->family == 4 ? 32 : 64),
				  .addr = *striker };

	return bpf_map_lookup_elem(&protected, &key);
}

/* The bit before the entry: a clear bit proves that there is none. */
static __always_inline void index_set(const struct addr *a)
{
	__u32 bit = a->family == 4 ? bpf_ntohl(a->word[0]) >> 8 :
				     LIST_INDEX_WORDS4 * 64 + index_hash_v6(a->word[0]);
	__u64 family = a->family == 4 ? 1 : 2;
	__u32 word = bit >> 6;

	if (word < LIST_INDEX_WORDS && !index_bit(bit))
		__sync_fetch_and_or(&tables.list_index[word], 1ULL << (bit & 63));
	if (!(*(volatile __u64 *)&control.families & family))
		__sync_fetch_and_or(&control.families, family);
}

struct ban_length {
	__u64 ms;
	__u64 max_ms;
	__u32 growth;
	__u32 grown;
};

static long length_step(__u32 index, void *ctx)
{
	struct ban_length *l = ctx;

	if (l->ms >= l->max_ms)
		return 1;
	l->ms = l->ms * l->growth / 100;
	l->grown++;
	return 0;
}

/* How many bans before count for the next one. */
static __always_inline __u32 repeats_left(const struct ban *b, __u64 expires, __u64 now)
{
	__u64 faded = (now - expires) / (b->fade_ns ?: 1);

	return b->repeats > faded ? b->repeats - faded : 0;
}

/* repeats: in, how many count; out, with this one. Past the longest ban no more count, or they would never fade. */
static __always_inline __u64 ban_ms(const struct ban_term *terms, __u32 *repeats)
{
	struct ban_length l = { .ms = terms->for_ms,
				.max_ms = terms->max_ms,
				.growth = terms->growth };

	bpf_loop(*repeats < BAN_REPEATS ? *repeats : BAN_REPEATS, length_step, &l, 0);
	*repeats = l.grown + 1;
	return l.ms < l.max_ms ? l.ms : l.max_ms;
}

/* Where a ban lies already. One in force stays: somebody else was first, and one offence makes one ban. */
static __always_inline void ban_again(struct ban *b, const struct ban_term *terms, __u32 service,
				      __u64 now, struct ban_tally *tally)
{
	__u64 expires = *(volatile __u64 *)&b->expires_ns, length;
	__u32 repeats;

	if (expires > now)
		return;
	repeats = repeats_left(b, expires, now);
	length = ban_ms(terms, &repeats) * MILLISECOND_NS;
	if (__sync_val_compare_and_swap(&b->expires_ns, expires, now + length) != expires)
		return;
	/* The only one that writes until then. Worst case: a reader in between sees the old of these. */
	b->made_ns = now;
	b->fade_ns = length > terms->within_ms * MILLISECOND_NS ? length :
								  terms->within_ms * MILLISECOND_NS;
	b->repeats = repeats;
	b->strikes = terms->after;
	b->service = service;
	tally->bans++;
}

/* A ban of p's source, by the terms of a limit. Full, or gone meanwhile: none, which is counted. */
__noinline int ban_source(const struct packet *p, __u32 slot_and_limit, __u32 service, __u64 now)
{
	struct ban_term *terms = bpf_map_lookup_elem(&ban_terms, &slot_and_limit);
	struct ban_tally *tally = own_tally();
	struct ban_key key = {};
	struct ban *b;

	if (!p || !terms || !tally)
		return 0;
	key.addr = p->src;
	cut_to_striker(&key.addr);
	key.service = terms->scope == BAN_SERVICE ? service : BAN_FROM_ALL;
	if (is_protected(&key.addr)) {
		tally->spared++;
		return 0;
	}
	index_set(&key.addr);
	b = bpf_map_lookup_elem(&bans, &key);
	if (!b) {
		bpf_map_update_elem(&bans, &key, &no_ban, BPF_NOEXIST);
		b = bpf_map_lookup_elem(&bans, &key);
	}
	if (b)
		ban_again(b, terms, service, now, tally);
	else
		tally->unfit++;
	return 0;
}
