/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What a socket is counted under, kept in the socket's own storage: so it is counted once and given back once,
 * whatever the policy has become meanwhile. All of it is written under the socket's lock.
 */

#include "conns_note.h"

/* The counting that this program belongs to: one that began anew knows nothing of what was held before. */
volatile const __u64 conns_epoch = 1;
volatile const __u32 conns_runner = CONN_STATE1;

static __always_inline bool held_counts(const struct conn_held *held)
{
	return held && held->epoch == conns_epoch && held->count;
}

static __always_inline void held_begin(struct conn_held *held)
{
	held->epoch = conns_epoch;
	held->count = 0;
	held->since_ns = coarse_ns();
}

static __always_inline struct conn_key *held_at(struct conn_held *held, __u32 n)
{
	struct conn_key *key = &held->key[n & (CONN_CLAIMS - 1)];

	KEEP(key);
	return key;
}

__noinline int held_release(struct conn_held *held)
{
	__u32 count;

	if (!held)
		return 0;
	count = held->count;
	held->count = 0;
	for (__u32 i = 0; i < CONN_CLAIMS; i++) {
		if (i >= count)
			break;
		if (conn_give(held_at(held, i), CONN_ESTABLISHED) == CONN_LOST)
			TALLY(lost);
	}
	return 0;
}

/* What the gate has reserved is established, and the socket's. */
__noinline int held_from_note(struct conn_held *held, struct conn_note *note)
{
	__u32 count;

	if (!held || !note)
		return 0;
	held_begin(held);
	count = note->count;
	for (__u32 i = 0; i < CONN_CLAIMS; i++) {
		struct conn_key *key = &claim_at(note, i)->key;

		if (i >= count)
			break;
		if (conn_move(key) == CONN_LOST) {
			TALLY(lost);
			continue;
		}
		*held_at(held, held->count) = *key;
		held->count++;
	}
	return 0;
}

__noinline int held_has(struct conn_held *held, const struct conn_key *key)
{
	if (!held || !key)
		return 0;
	for (__u32 i = 0; i < CONN_CLAIMS; i++) {
		if (i >= held->count)
			break;
		if (same_key(held_at(held, i), key))
			return 1;
	}
	return 0;
}

/* Counts the socket under what it claims and is not counted under yet. Asks no limit: it is there already. */
__noinline int held_add(struct conn_held *held, struct conn_note *note)
{
	if (!held || !note)
		return 0;
	if (!held_counts(held))
		held_begin(held);
	for (__u32 i = 0; i < CONN_CLAIMS; i++) {
		struct conn_key *key = &claim_at(note, i)->key;
		int answer;

		if (i >= note->count || held->count >= CONN_CLAIMS)
			break;
		if (held_has(held, key))
			continue;
		answer = conn_take(key, CONN_ESTABLISHED, CONN_NO_LIMIT);
		if (answer == CONN_CONTENDED)
			TALLY(contended);
		if (answer == CONN_FULL)
			TALLY(full);
		if (answer != CONN_TAKEN)
			continue;
		*held_at(held, held->count) = *key;
		held->count++;
	}
	return 0;
}

/* Gives back what no policy that may come into force counts any more. */
__noinline int held_prune(struct conn_held *held, struct conn_note *note)
{
	__u32 n = 0;

	if (!held || !note || held->epoch != conns_epoch)
		return 0;
	for (__u32 i = 0; i < CONN_CLAIMS; i++) {
		struct conn_key *key = held_at(held, n);

		if (n >= held->count)
			break;
		if (claims_have(note, key)) {
			n++;
			continue;
		}
		if (conn_give(key, CONN_ESTABLISHED) == CONN_LOST)
			TALLY(lost);
		held->count--;
		*key = *held_at(held, held->count);
	}
	return 0;
}
