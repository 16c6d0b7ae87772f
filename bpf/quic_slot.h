/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What one slot of the table of recent QUIC connections holds, and what a further datagram makes of
 * it. Pure: no map, no helper, no clock. It also compiles as plain C on a host.
 *
 *     slot = connection (26 bits) | dcid (14) | changes (2) | repeats (4) | time (18, in 2^30 ns)
 *
 * connection is a tag of the addresses, the ports and the client's own id (scid), dcid one of the
 * destination id that it used last. time is when it was counted, and no repeat moves it. It turns
 * around after 78 hours: who then sends the same again, within ten seconds, is known once more.
 */

#include "abi.h"

#define QUIC_UNIT_SHIFT 30
#define QUIC_LIFE 9 /* units: an entry lasts between 9.7 and 10.7 seconds */

#define QUIC_TIME ((1ULL << 18) - 1)
#define QUIC_REPEAT (1ULL << 18)
#define QUIC_REPEATS (15 * QUIC_REPEAT)
#define QUIC_CHANGE (1ULL << 22)
#define QUIC_CHANGES (3 * QUIC_CHANGE)
#define QUIC_DCID (((1ULL << 14) - 1) << 24)
#define QUIC_CONNECTION (~0ULL << 38)

/* The bits of a hash that tell connections of one bucket apart. Never zero: nobody owns such a slot. */
static inline __u64 quic_connection(__u64 hash)
{
	return hash & QUIC_CONNECTION ?: 1ULL << 38;
}

static inline __u64 quic_units(__u64 now_ns)
{
	return (now_ns >> QUIC_UNIT_SHIFT) & QUIC_TIME;
}

/*
 * Units since a slot was counted, and one more: so one that a CPU has counted whose clock is a tick
 * ahead is the youngest, and not the oldest. A slot that nobody owns is older than any. Without
 * branches, for the verifier walks each of them for each slot.
 */
static inline __u64 quic_age(__u64 slot, __u64 now)
{
	__u64 nobody = (__s64)((slot >> 38) - 1) >> 63;

	return ((now + 1 - slot) & QUIC_TIME) | (nobody & (QUIC_TIME + 1));
}

/* The order in which slots are taken over: the oldest, and of these the first, has the highest. */
static inline __s64 quic_rank(__u64 slot, __u64 now, __u32 way)
{
	return quic_age(slot, now) * QUIC_WAYS + (QUIC_WAYS - 1 - way);
}

static inline __s64 quic_higher(__s64 a, __s64 b)
{
	__s64 difference = b - a;

	return a + (difference & ~(difference >> 63));
}

static inline __u32 quic_ranked_way(__s64 rank)
{
	return QUIC_WAYS - 1 - (rank & (QUIC_WAYS - 1));
}

static inline int quic_is(__u64 slot, __u64 connection)
{
	return (slot & QUIC_CONNECTION) == connection;
}

static inline int quic_lives(__u64 slot, __u64 now)
{
	return quic_age(slot, now) <= QUIC_LIFE + 1;
}

/* A connection that has just been counted. */
static inline __u64 quic_counted(__u64 connection, __u64 dcid, __u64 now)
{
	return connection | (dcid & QUIC_DCID) | now;
}

/* Whether a slot is one that quic_counted has made of these, and good for more. */
static inline int quic_holds(__u64 slot, __u64 connection, __u64 dcid, __u64 now)
{
	return quic_is(slot, connection) && quic_lives(slot, now) && !((slot ^ dcid) & QUIC_DCID) &&
	       (slot & QUIC_REPEATS) != QUIC_REPEATS;
}

/*
 * What one more datagram of its connection makes of a live slot; 0: it asks for a new connection.
 *
 * A client takes another destination id at most twice: the one of a Retry, then the one of the
 * server's first Initial (RFC 9000 section 7.2). Only after a Retry do its Initials carry the token
 * that the second change asks for (section 8.1.2). Nothing in the clear tells a server's id from one
 * that an attacker has made up, so one that is counted is good for as many connections as there may be
 * ids: two, three with a token, true or forged. Repeats are bounded because a server may have forgotten
 * what it made, and make it again: of one that is counted at most 15 more datagrams pass.
 *
 * Worst case for a client: its connection counts once more, if in its last Initial it has already taken
 * an id from a NEW_CONNECTION_ID frame (section 5.1.1), or if it repeats itself more than 15 times.
 */
static inline __u64 quic_next(__u64 slot, __u64 dcid, int token)
{
	__u64 most = token ? 2 * QUIC_CHANGE : QUIC_CHANGE;

	if ((slot & QUIC_REPEATS) == QUIC_REPEATS)
		return 0;
	slot += QUIC_REPEAT;
	if (!((slot ^ dcid) & QUIC_DCID))
		return slot;
	if ((slot & QUIC_CHANGES) >= most)
		return 0;
	return (slot & ~QUIC_DCID) + QUIC_CHANGE + (dcid & QUIC_DCID);
}
