/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Types of strikes and bans. A striker, and who is banned, is an IPv4 address or an IPv6 /64. Times are
 * CLOCK_MONOTONIC. Included by abi.h, behind what it needs.
 */

enum ban_size {
	BANNED_SOURCES = 1 << 18,
	STRIKERS = 1 << 16,
	PROTECTED_PREFIXES = 1 << 14,
	STRIKE_PROOFS = 16,
	BAN_REPEATS = 4096, /* as many as the slowest growth takes from a second to ten years */
	BAN_FROM_ALL = 65535, /* no service's id in any version */
};

enum ban_scope {
	BAN_GLOBAL,
	BAN_SERVICE,
};

/* What a limit's ban is. growth is in hundredths. Keyed by policy slot << 16 | id of the limit. */
struct ban_term {
	__u64 within_ms;
	__u64 for_ms;
	__u64 max_ms;
	__u64 every_ms; /* of bytes_out: who stays over strikes once in this time */
	__u32 after;
	__u32 growth;
	__u32 scope;
	__u32 pad;
};
_Static_assert(sizeof(struct ban_term) == 48, "ban_term");

struct strike_key {
	struct addr addr;
	__u32 limit; /* id */
};
_Static_assert(sizeof(struct strike_key) == 24, "strike_key");

/*
 * word: when the window began, in milliseconds (48 bits), and the strikes in it (16). proofs are the cookies that
 * struck last, less the client's sequence number, round about: each strikes once, however often it is sent. next
 * is the number of the next. over_ms is when what was acknowledged struck last.
 */
struct striker {
	__u64 word;
	__u64 over_ms;
	__u32 proofs[STRIKE_PROOFS];
	__u32 next;
	__u32 pad;
};
_Static_assert(sizeof(struct striker) == 88, "striker");

/* What of a connection's acknowledged bytes is charged under a policy. Kept in its socket. */
struct acked {
	__u64 bytes;
	__u32 generation;
	__u32 pad;
};
_Static_assert(sizeof(struct acked) == 16, "acked");

/* service: the id of the only one that is kept from the source, or BAN_FROM_ALL. */
struct ban_key {
	struct addr addr;
	__u32 service;
};
_Static_assert(sizeof(struct ban_key) == 24, "ban_key");

/*
 * A ban, also one that has ended, for what it says of the next. repeats: bans in a row, this one included, of which
 * each fade_ns without another takes one away. service is where the strikes came in.
 */
struct ban {
	__u64 expires_ns;
	__u64 made_ns;
	__u64 fade_ns;
	__u64 hits;
	__u32 repeats;
	__u32 strikes;
	__u32 service;
	__u32 pad;
};
_Static_assert(sizeof(struct ban) == 48, "ban");

/* What one CPU counted: proof that was refused and struck, bans, and bans that were due and not made. */
struct ban_tally {
	__u64 strikes;
	__u64 bans;
	__u64 spared; /* protected */
	__u64 unfit; /* no room */
};
_Static_assert(sizeof(struct ban_tally) == 32, "ban_tally");
