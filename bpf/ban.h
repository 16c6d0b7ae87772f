/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Refused proof into strikes, and strikes into a ban, with nobody running. A SYN never comes here, and neither does
 * an ACK whose cookie the kernel did not make: nobody is banned for what another can send in his name.
 *
 * The window begins with a strike and ends as long after it as the limit says. Worst case: who strikes at the end of
 * one and at the beginning of the next is banned after twice as many, less one.
 */

#include "ban_make.h"

/* The budget of a source for ACKs with a wrong cookie; see struct answer in Go. */
#define GUESSES (MAX_LIMITS - 6)

static __always_inline const struct limit *guesses_in(__u32 slot)
{
	return limit_in(slot, GUESSES);
}

/* Past this budget a source does not strike: cookies are guessed in its name, and in the end one would be right. */
__noinline int may_strike(const struct packet *p, __u32 slot, __u64 now)
{
	const struct limit *l = guesses_in(slot);

	if (!p)
		return 0;
	/* The policy of this slot may have no bans. */
	return l->cost &&
	       meter_look(l, hash_addr(l, &p->src, l->seed), now, l->cost) == METER_ADMITTED;
}

static __always_inline void charge_guess(struct packet *p, __u64 now)
{
	const struct limit *l = guesses_in(slot_of(p));

	meter_charge(l, hash_addr(l, &p->src, l->seed), now, l->cost);
}

/*
 * Whether a proof has not struck before: what is sent behind it carries its cookie too. A cookie is the client's
 * sequence number and a number of the tuple and the minute, with the index of an MSS below 4; so whoever has seen one
 * knows the cookies for all sequence numbers, and their difference is what counts. Worst case: connections from one
 * port to another strike once a minute.
 */
struct proof_try {
	struct striker *of;
	__u32 proof;
	__u32 is_new;
};

static long proof_step(__u32 index, void *ctx)
{
	struct proof_try *t = ctx;
	__u32 at = *(volatile __u32 *)&t->of->next & (STRIKE_PROOFS - 1), oldest = 0;

	for (__u32 n = 0; n < STRIKE_PROOFS; n++) {
		__u32 seen = *(volatile __u32 *)&t->of->proofs[n];

		if (seen - t->proof + 3 <= 6)
			return 1;
		if (n == at)
			oldest = seen;
	}
	/* Of two CPUs that meet one proof at once both are here with the same place, and one comes back. */
	if (__sync_val_compare_and_swap(&t->of->proofs[at], oldest, t->proof) != oldest)
		return 0;
	__sync_fetch_and_add(&t->of->next, 1);
	t->is_new = 1;
	return 1;
}

/* Worst case: a CPU that loses every try has not struck. */
#define STRIKE_TRIES 64

static __always_inline bool proof_is_new(struct striker *s, __u32 proof)
{
	struct proof_try t = { .of = s, .proof = proof };

	bpf_loop(STRIKE_TRIES, proof_step, &t, 0);
	return t.is_new;
}

struct strike_try {
	struct striker *of;
	__u64 now_ms;
	__u64 within_ms;
	__u64 after;
	__u32 due; /* for a ban */
};

/* Whoever makes the last strike also begins the count anew, in one step: one CPU of all is due to ban. */
static long strike_step(__u32 index, void *ctx)
{
	struct strike_try *t = ctx;
	__u64 word = *(volatile __u64 *)&t->of->word, next;
	__u64 begun = word >> 16, count = word & 0xffff;

	if (!count || (__s64)(t->now_ms - begun) >= (__s64)t->within_ms) {
		begun = t->now_ms;
		count = 0;
	}
	count++;
	next = count < t->after ? begun << 16 | count : 0;
	if (__sync_val_compare_and_swap(&t->of->word, word, next) != word)
		return 0;
	t->due = !next;
	return 1;
}

static __always_inline struct striker *strikes_of(const struct packet *p, __u32 limit)
{
	struct strike_key key = { .addr = p->src, .limit = limit };
	struct striker *s;

	cut_to_striker(&key.addr);
	s = bpf_map_lookup_elem(&strikes, &key);
	if (s)
		return s;
	/* Refused where another CPU was first. */
	bpf_map_update_elem(&strikes, &key, &no_strikes, BPF_NOEXIST);
	return bpf_map_lookup_elem(&strikes, &key);
}

/* Whether the proof that own_counts holds may be a strike of p's source against a limit. It may once. */
__noinline int may_be_strike(const struct packet *p, __u32 slot_and_limit, __u64 now)
{
	struct counts *mine = own_counts();
	struct striker *s;

	if (!p || !mine || !may_strike(p, slot_and_limit >> 16, now))
		return 0;
	s = strikes_of(p, slot_and_limit & 0xffff);
	return s && proof_is_new(s, mine->proof);
}

/*
 * One strike of p's source against a limit. 1: it is the last, and a ban is due, which is its caller's to make: below
 * this frame there is no room for another.
 */
__noinline int strike(const struct packet *p, __u32 slot_and_limit, __u64 now)
{
	struct strike_try t = {};
	struct ban_term *terms;
	struct ban_tally *tally = own_tally();

	if (!p || !tally)
		return 0;
	terms = bpf_map_lookup_elem(&ban_terms, &slot_and_limit);
	if (!terms)
		return 0;
	t.of = strikes_of(p, slot_and_limit & 0xffff);
	if (!t.of)
		return 0;
	tally->strikes++;
	t.now_ms = now / MILLISECOND_NS;
	t.within_ms = terms->within_ms;
	t.after = terms->after;
	bpf_loop(STRIKE_TRIES, strike_step, &t, 0);
	return t.due;
}
