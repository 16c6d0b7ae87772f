/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The table of QUIC connections that have lately been counted: a client pads every Initial, so one
 * connection takes several datagrams that may ask for a new one. quic_seen comes before the limits,
 * quic_note after they have admitted. Set-associative and of fixed size: a flood can make it count a
 * connection again, and cannot make it let one pass. What an attacker gets for one that is counted
 * says quic_next; by chance one in eight million passes for a change of another.
 */

#include "quic.h"

#define QUIC_TRIES 3

enum quic_verdict {
	QUIC_NEW,
	QUIC_KNOWN,
	QUIC_CONTENDED, /* another CPU was faster: try again */
};

static __always_inline struct quic_bucket *quic_bucket_of(const struct quic_key *key)
{
	/* On the stack: Linux 6.1 takes no key of a map from a function's argument. */
	__u32 bucket = key->bucket;

	return bpf_map_lookup_elem(&quic_recent, &bucket);
}

static __always_inline __u64 quic_read(const struct quic_bucket *b, __u32 way)
{
	return *(volatile __u64 *)&b->slot[way & (QUIC_WAYS - 1)];
}

static __always_inline int quic_swap(struct quic_bucket *b, __u32 way, __u64 old, __u64 next)
{
	__u64 *slot = &b->slot[way & (QUIC_WAYS - 1)];

	return __sync_val_compare_and_swap(slot, old, next) == old ? QUIC_KNOWN : QUIC_CONTENDED;
}

__noinline int quic_try_seen(const struct quic_key *key, __u64 now)
{
	struct quic_bucket *b;

	if (!key)
		return QUIC_NEW;
	b = quic_bucket_of(key);
	if (!b)
		return QUIC_NEW;
#pragma unroll
	for (__u32 way = 0; way < QUIC_WAYS; way++) {
		__u64 slot = quic_read(b, way), next;

		if (!quic_is(slot, key->connection) || !quic_lives(slot, now))
			continue;
		next = quic_next(slot, key->dcid, key->token);
		return next ? quic_swap(b, way, slot, next) : QUIC_NEW;
	}
	return QUIC_NEW;
}

/*
 * Whether a datagram that may ask belongs to a connection that quic_note has been told of. Only of
 * those does it write, so a flood that is refused writes nothing. Worst case: after QUIC_TRIES lost
 * races it counts as new once more than it should.
 */
static __always_inline int quic_seen(const struct quic_key *key, __u64 now_ns)
{
	for (int try = 0; try < QUIC_TRIES; try++) {
		int verdict = quic_try_seen(key, quic_units(now_ns));

		if (verdict != QUIC_CONTENDED)
			return verdict;
	}
	return QUIC_NEW;
}

static __always_inline int quic_put(struct quic_bucket *b, __u32 way, __u64 old,
				    const struct quic_key *key, __u64 now)
{
	if (quic_holds(old, key->connection, key->dcid, now))
		return QUIC_KNOWN;
	return quic_swap(b, way, old, quic_counted(key->connection, key->dcid, now));
}

/* Writes to the connection's own slot, live or not, else to the oldest. */
__noinline int quic_try_note(const struct quic_key *key, __u64 now)
{
	struct quic_bucket *b;
	__s64 oldest = 0;
	__u64 old;
	__u32 at;

	if (!key)
		return QUIC_NEW;
	b = quic_bucket_of(key);
	if (!b)
		return QUIC_NEW;
#pragma unroll
	for (__u32 way = 0; way < QUIC_WAYS; way++) {
		__u64 slot = quic_read(b, way);

		if (quic_is(slot, key->connection))
			return quic_put(b, way, slot, key, now);
		oldest = quic_higher(oldest, quic_rank(slot, now, way));
	}
	at = quic_ranked_way(oldest);
	old = quic_read(b, at);
	if (quic_rank(old, now, at) != oldest)
		return QUIC_CONTENDED;
	return quic_put(b, at, old, key, now);
}

/*
 * Remember a connection that quic_seen called new and that was let through. One that is refused is not
 * to be told: what its client sends again is judged again. Two CPUs that insert one connection pick
 * the same slot, and one loses its compare-and-swap. Worst case: each CPU that sees a datagram of one
 * connection between another's quic_seen and quic_note counts it once more; no connection goes
 * uncounted by that. After QUIC_TRIES lost races it is not remembered, and its next datagram counts.
 */
static __always_inline void quic_note(const struct quic_key *key, __u64 now_ns)
{
	for (int try = 0; try < QUIC_TRIES; try++)
		if (quic_try_note(key, quic_units(now_ns)) != QUIC_CONTENDED)
			return;
}
