/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * From the gate to the state change: what the gate has reserved for an ACK lies in the note of its CPU, and is
 * taken out once, by a compare-and-swap on its token: by the state change that follows in the same softirq, or,
 * where none did, by the gate's next run on that CPU. Worst case: until then one place for each CPU is held by an
 * ACK that made no connection.
 */

#include "conns_table.h"
#include "conns_claims.h"

static __always_inline struct conn_note *note_of(__u32 runner)
{
	return bpf_map_lookup_elem(&conn_notes, &runner);
}

static __always_inline struct conn_tally *own_tally(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&conn_tallies, &zero);
}

#define TALLY(what)                                 \
	do {                                        \
		struct conn_tally *t = own_tally(); \
		if (t)                              \
			t->what++;                  \
	} while (0)

/* Gives back the first n of what the note claims. */
static __always_inline void claims_give(struct conn_note *note, __u32 n)
{
	for (__u32 i = 0; i < CONN_CLAIMS; i++) {
		if (i >= n)
			break;
		if (conn_give(&claim_at(note, i)->key, CONN_RESERVED) == CONN_LOST)
			TALLY(lost);
	}
}

__noinline int note_return(struct conn_note *note)
{
	__u64 token;

	if (!note)
		return 0;
	token = note->token;
	if (!token || __sync_val_compare_and_swap(&note->token, token, 0) != token)
		return 0;
	claims_give(note, note->count);
	if (note->count)
		TALLY(returned);
	return 0;
}

/* A full table lets the connection through, uncounted, unless the policy says drop. */
static __always_inline bool refuses(int answer, __u32 slot)
{
	if (answer == CONN_FULL)
		return policy_at(slot)->on_table_full == TABLE_FULL_DROP;
	return answer != CONN_TAKEN;
}

static __always_inline void count_refusal(__u32 limit, int answer, const struct packet *p)
{
	if (answer == CONN_CONTENDED) {
		TALLY(contended);
		return;
	}
	TALLY(refused);
	if (limit)
		count_far(p, &limit_counters, limit - 1);
}

/* Leaves out of the note what the full table had no room for. */
static __always_inline void claim_drop(struct conn_note *note, __u32 n)
{
	note->count--;
	if (n != note->count)
		*claim_at(note, n) = *claim_at(note, note->count);
}

/*
 * Reserves a place under every claim of the note. False: one has none, and nothing is reserved. Worst case: the
 * places that are given back for that refuse somebody else meanwhile, whose ACK comes again.
 */
__noinline int claims_reserve(struct conn_note *note, const struct packet *p, __u32 slot)
{
	__u32 n = 0;

	if (!note || !p)
		return 1;
	for (int i = 0; i < CONN_CLAIMS; i++) {
		struct conn_claim *c = claim_at(note, n);
		int answer;

		if (n >= note->count)
			break;
		answer = conn_take(&c->key, CONN_RESERVED, c->most);
		if (answer == CONN_TAKEN) {
			n++;
			continue;
		}
		if (refuses(answer, slot)) {
			count_refusal(c->limit_id, answer, p);
			claims_give(note, n);
			return 0;
		}
		TALLY(full);
		claim_drop(note, n);
	}
	return 1;
}

/* The note now waits for the connection of p. */
static __always_inline void note_write(struct conn_note *note, const struct packet *p)
{
	note->remote = p->src;
	note->remote_port = p->sport;
	note->local_port = p->dport;
	note->last++;
	*(volatile __u64 *)&note->token = note->last;
}

static __always_inline bool note_is_of(const struct conn_note *note, const struct packet *p)
{
	const struct addr *a = &note->remote, *b = &p->src;

	return note->remote_port == p->sport && note->local_port == p->dport &&
	       a->family == b->family && a->word[0] == b->word[0] && a->word[1] == b->word[1] &&
	       a->word[2] == b->word[2] && a->word[3] == b->word[3];
}
