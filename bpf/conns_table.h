/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The counts of connections: take a place, turn a reserved one into an established one, give one back.
 *
 *     word = reserved (32 bits) | established (32 bits)
 *
 * An entry whose word is zero is deleted by who made it so: first the word becomes CONN_DEAD, which nobody else
 * writes to, then the entry goes. A hash map may give the memory of an entry to another key at once, so who
 * takes a place looks afterwards whether the entry is still its key's; who holds one need not, for an entry that
 * counts anything is never deleted.
 */

#include "maps.h"

#define CONN_ESTABLISHED 1ULL
#define CONN_RESERVED (1ULL << 32)
#define CONN_DEAD (~0ULL)
#define CONN_NO_LIMIT (~0ULL)
/* A try is lost to a CPU that won, or while another deletes the entry: some ten instructions. */
#define CONN_MAX_TRIES 4096

#define ERR_FULL (-7) /* E2BIG */
#define ERR_EXISTS (-17) /* EEXIST */

enum conn_answer {
	CONN_TAKEN,
	CONN_OVER,
	CONN_FULL,
	CONN_CONTENDED,
	CONN_GIVEN,
	CONN_LOST,
};

/* The key is a copy: Linux 6.1 takes no key from memory that a function was given. */
struct conn_try {
	struct conn_key key;
	__u64 amount;
	__u64 most;
	int answer;
};

static __always_inline __u64 conn_total(__u64 word)
{
	return word == CONN_DEAD ? 0 : (word & 0xffffffff) + (word >> 32);
}

/* Up to Linux 6.3 the helper is a call of a function that returns int: the upper half of the register is not its sign. */
static __always_inline long take_first(struct conn_try *t)
{
	__u64 word = t->amount;
	int err = bpf_map_update_elem(&conns, &t->key, &word, BPF_NOEXIST);

	if (err == ERR_EXISTS)
		return 0;
	t->answer = !err ? CONN_TAKEN : err == ERR_FULL ? CONN_FULL : CONN_CONTENDED;
	return 1;
}

static long take_step(__u32 index, void *ctx)
{
	struct conn_try *t = ctx;
	__u64 *count = bpf_map_lookup_elem(&conns, &t->key), word;

	if (!count)
		return take_first(t);
	word = *(volatile __u64 *)count;
	if (word == CONN_DEAD)
		return 0;
	if (conn_total(word) >= t->most) {
		t->answer = CONN_OVER;
		return 1;
	}
	if (__sync_val_compare_and_swap(count, word, word + t->amount) != word)
		return 0;
	if (bpf_map_lookup_elem(&conns, &t->key) == count) {
		t->answer = CONN_TAKEN;
		return 1;
	}
	/* It had become another key's, and could not be deleted meanwhile. */
	__sync_fetch_and_add(count, -t->amount);
	return 0;
}

/*
 * Takes a place: CONN_RESERVED or CONN_ESTABLISHED. CONN_OVER where there are most already. CONN_CONTENDED:
 * no memory just now, or an entry that a task below this interrupt is about to delete.
 */
__noinline int conn_take(const struct conn_key *key, __u64 amount, __u64 most)
{
	struct conn_try t = { .amount = amount, .most = most, .answer = CONN_CONTENDED };

	if (!key)
		return CONN_CONTENDED;
	t.key = *key;
	bpf_loop(CONN_MAX_TRIES, take_step, &t, 0);
	return t.answer;
}

/* Where the delete cannot have its lock, the entry stays, empty and of use. */
static __always_inline void conn_delete(const struct conn_key *key, __u64 *count)
{
	if ((int)bpf_map_delete_elem(&conns, key))
		__sync_val_compare_and_swap(count, CONN_DEAD, 0);
}

static long give_step(__u32 index, void *ctx)
{
	struct conn_try *t = ctx;
	__u64 *count = bpf_map_lookup_elem(&conns, &t->key), word, next, there;

	t->answer = CONN_LOST;
	if (!count)
		return 1;
	word = *(volatile __u64 *)count;
	there = t->amount == CONN_RESERVED ? word >> 32 : word & 0xffffffff;
	if (word == CONN_DEAD || !there)
		return 1;
	next = word - t->amount ?: CONN_DEAD;
	if (__sync_val_compare_and_swap(count, word, next) != word)
		return 0;
	t->answer = CONN_GIVEN;
	if (next == CONN_DEAD)
		conn_delete(&t->key, count);
	return 1;
}

/* Gives back what was taken. CONN_LOST: it is not there, which is a fault. */
__noinline int conn_give(const struct conn_key *key, __u64 amount)
{
	struct conn_try t = { .amount = amount };

	if (!key)
		return CONN_LOST;
	t.key = *key;
	bpf_loop(CONN_MAX_TRIES, give_step, &t, 0);
	return t.answer;
}

/* A reserved place becomes an established one. */
static __always_inline int conn_move(const struct conn_key *of)
{
	struct conn_key key = *of;
	__u64 *count = bpf_map_lookup_elem(&conns, &key);

	if (!count)
		return CONN_LOST;
	__sync_fetch_and_add(count, CONN_ESTABLISHED - CONN_RESERVED);
	return CONN_TAKEN;
}
