/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Types of what is counted of connections. Included by abi.h, behind what it needs. */

enum conn_size {
	CONN_CLAIMS = 8, /* that one connection may have: its limits, and its line of the ledger */
	CONN_KEYS = 262144,
	PENDING_BUCKETS = 1 << 14,
	PENDING_WAYS = 8,
	WAITING_CELLS = 1 << 16,
	LISTENING_WORDS = 1024, /* one bit a port */
	VERIFIED_SOURCES = 65536,
};

#define VERIFIED_FOR_NS (600 * 1000000000ULL)

/* Who runs: each has a note of its own on every CPU, for one may interrupt another. */
enum conn_runner {
	CONN_GATE,
	CONN_STATE1,
	CONN_STATE2,
	CONN_SEED,
	CONN_RUNNERS,
};

/*
 * What a count belongs to. limit is the limit's seed, for an id may be given again while a socket is still
 * counted under it; or, below SERVICE_IDS, a service, whose connections of one source of the ledger are counted.
 */
struct conn_key {
	__u64 limit;
	struct addr addr; /* masked; all zero for `per: service` */
	__u32 pad;
};
_Static_assert(sizeof(struct conn_key) == 32, "conn_key");

/*
 * What a socket was counted under, kept with the socket, and since when, CLOCK_MONOTONIC nanoseconds. Another epoch's
 * was counted in a table that is gone.
 */
struct conn_held {
	__u64 epoch;
	__u32 count;
	__u32 pad;
	__u64 since_ns;
	struct conn_key key[CONN_CLAIMS];
};
_Static_assert(sizeof(struct conn_held) == 280, "conn_held");

/* One socket as it is shown. service: SERVICE_IDS stands for none. */
struct conn_line {
	__u64 since_ns;
	struct addr remote;
	struct addr local;
	__u16 remote_port;
	__u16 local_port;
	__u32 service;
};
_Static_assert(sizeof(struct conn_line) == 56, "conn_line");

/* A key with how many there may be. */
struct conn_claim {
	struct conn_key key;
	__u64 most;
	__u32 limit_id; /* plus 1; 0: none, or one that refuses nothing */
	__u32 pad;
};
_Static_assert(sizeof(struct conn_claim) == 48, "conn_claim");

/*
 * Of the gate: what it has reserved for the connection that this ACK is about to make. token is 0 when nothing is
 * reserved; last is the token that was given last, consumed the one whose connection is counted.
 */
struct conn_note {
	__u64 token;
	__u64 last;
	__u64 consumed;
	struct addr remote;
	__u16 remote_port;
	__u16 local_port;
	__u32 count;
	__u32 pad;
	struct conn_claim claim[CONN_CLAIMS];
};
_Static_assert(sizeof(struct conn_note) == 440, "conn_note");

/* What one CPU counts of the counting itself. */
struct conn_tally {
	__u64 refused; /* ACKs that were to end a handshake */
	__u64 opened; /* connections that were counted where they began */
	__u64 returned; /* places of ACKs that made no connection */
	__u64 late; /* counted without having asked for a place */
	__u64 full; /* not counted: the table was full */
	__u64 unheld; /* not counted: no memory for a note at the socket */
	__u64 contended;
	__u64 lost; /* a count that should be there and is not */
};
_Static_assert(sizeof(struct conn_tally) == 64, "conn_tally");

/* SYNs that were let through: 8 slots a bucket, one cache line; see conns_pending.h. */
struct pending_bucket {
	__u64 slot[PENDING_WAYS];
};
_Static_assert(sizeof(struct pending_bucket) == 64, "pending_bucket");

/* Of Go only: the epoch of the counting, and the generation whose limits all sockets were counted under. */
struct conn_control {
	__u64 epoch;
	__u64 seeded;
};
_Static_assert(sizeof(struct conn_control) == 16, "conn_control");
