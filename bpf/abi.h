/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Every type that both the kernel programs and Go see: the values of the pinned maps and the names
 * of verdicts. Widths are fixed and padding is explicit. A change of anything here is a change of
 * ABI_VERSION: pinned maps outlive the program that made them.
 */

#include <linux/types.h>

/* An enum and not macros, so that Go reads the same numbers from the object's BTF. */
enum abi {
	ABI_VERSION = 1,
	METER_WAYS = 8,
	METER_REGIONS = 2,
	METER_BUCKETS_PER_REGION = 65536,
	POLICY_SLOTS = 4,
	MAX_INTERFACES = 64,
	LIST_INDEX_WORDS4 = 1 << 18, /* one bit an IPv4 /24 */
	LIST_INDEX_WORDS6 = 1 << 16, /* one bit a hash of an IPv6 /32 */
	LIST_INDEX_FAMILIES =
		LIST_INDEX_WORDS4 + LIST_INDEX_WORDS6, /* a word: bit 0 IPv4, bit 1 IPv6 */
	LIST_INDEX_WORDS,
};

/* Why a packet ended as it did. Zero means that no stage has decided yet. */
enum reason {
	REASON_NONE,
	REASON_NOT_IP,
	REASON_UNPARSED,
	REASON_NO_SERVICE,
	REASON_ESTABLISHED,
	REASON_ALLOWED,
	REASON_UNDER_LIMIT,
	REASON_BLOCKED,
	REASON_OVER_NEW,
	REASON_TABLE_FULL,
	REASON_MALFORMED,
	REASON_FRAGMENT,
	REASON_CONTENDED,
	REASON_SELF_TEST,
	REASON_COUNT,
};

/* What was done with it. */
enum action {
	ACTION_PASS,
	ACTION_DROP,
	ACTION_OBSERVE,
	ACTION_COUNT,
};

enum mode {
	MODE_ENFORCE,
	MODE_OBSERVE,
};

enum on_table_full {
	TABLE_FULL_PASS,
	TABLE_FULL_DROP,
};

/* Which packets of a source a block entry covers. */
enum scope {
	SCOPE_ALL,
	SCOPE_NEW,
};

enum limit_kind {
	LIMIT_NONE,
	LIMIT_NEW,
};

/* An address: IPv4 in word[0], IPv6 in all four, network byte order. family is 4 or 6. */
struct addr {
	__u32 family;
	__u32 word[4];
};
_Static_assert(sizeof(struct addr) == 20, "addr");

/*
 * Key of the lists. The LPM trie counts prefixlen over all that follows it, the family's 32 bits
 * included; the hash uses the same key so that one prefix has one form. The trie puts a value right
 * behind the bytes that prefixlen counts: the padding makes them a multiple of 8, or the hits of a
 * value would be added across cache lines, which stops every CPU of the machine (a split lock).
 */
struct prefix_key {
	__u32 prefixlen;
	struct addr addr;
	__u32 pad;
};
_Static_assert(sizeof(struct prefix_key) == 28, "prefix_key");
_Static_assert((sizeof(struct prefix_key) - sizeof(__u32)) % 8 == 0, "prefix_key aligns values");

/*
 * Times are CLOCK_MONOTONIC nanoseconds. expires_ns 0 means never. prefixlen repeats the key's, for a
 * trie does not say how long the match was.
 */
struct list_entry {
	__u64 expires_ns;
	__u64 hits;
	__u32 scope;
	__u32 prefixlen;
};
_Static_assert(sizeof(struct list_entry) == 24, "list_entry");

/* Who made a list entry and why. Read by people only, never by a program. created: UNIX seconds. */
struct list_note {
	__u64 created;
	__u8 by[32];
	__u8 reason[64];
};
_Static_assert(sizeof(struct list_note) == 104, "list_note");

struct list_note_key {
	struct prefix_key prefix;
	__u32 list;
};
_Static_assert(sizeof(struct list_note_key) == 32, "list_note_key");

enum list_id {
	LIST_ALLOW,
	LIST_BLOCK,
};

/* The secret words of a limit's hash; see hash.h. */
enum hash_key {
	HASH_IPV4,
	HASH_IPV6,
	HASH_ODD1,
	HASH_ODD2,
	HASH_ODD3,
	HASH_KEYS,
};

/*
 * One limit. cost is T and capacity is B*T, both in units of 2^unit_shift nanoseconds; burst is B. A
 * TAT that is further ahead of now than stale units has wrapped around and counts as past. What a
 * full table lets through passes one aggregate limit, in nanoseconds.
 */
struct limit {
	__u64 key[HASH_KEYS];
	__u64 cost;
	__u64 capacity;
	__u64 stale;
	__u64 aggregate_cost_ns;
	__u64 aggregate_capacity_ns;
	__u32 first_bucket;
	__u32 bucket_mask;
	__u32 kind;
	__u32 unit_shift;
	__u32 mask4;
	__u32 mask6[4];
	__u32 burst;
};
_Static_assert(sizeof(struct limit) == 120, "limit");

/*
 * What the operator asked for: one generation. Only an unused slot is written, then control.active
 * flips to it. rate_count and rate_period_ns and burst are what was typed, for people.
 */
struct policy {
	__u32 mode;
	__u32 on_table_full;
	__u32 strict_parsing;
	__u32 precise_clock;
	struct limit limit;
	__u64 rate_count;
	__u64 rate_period_ns;
	__u64 burst;
};
_Static_assert(sizeof(struct policy) == 160, "policy");

/* The live word: which policy slot is in force. generation only grows. */
struct control {
	__u32 active;
	__u32 generation;
};
_Static_assert(sizeof(struct control) == 8, "control");

/* One cache line: slot = tag (23 bits) | borrowed (1 bit) | TAT (40 bits). Zero is empty. */
struct bucket {
	__u64 slot[METER_WAYS];
};
_Static_assert(sizeof(struct bucket) == 64, "bucket");

/* What a full table lets through, for one limit: a whole TAT in nanoseconds. */
struct aggregate {
	__u64 tat_ns;
};
_Static_assert(sizeof(struct aggregate) == 8, "aggregate");

struct counter {
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct counter) == 16, "counter");

/* Counters lie by interface slot, then reason, then action. */
#define COUNTERS_PER_INTERFACE (REASON_COUNT * ACTION_COUNT)

struct source_key {
	struct addr addr;
	__u32 service;
};
_Static_assert(sizeof(struct source_key) == 24, "source_key");

enum source_flag {
	SOURCE_SAMPLED = 1,
};

struct source {
	__u64 admitted;
	__u64 refused;
	__u64 first_seen_ns;
	__u64 last_seen_ns;
	__u32 flags;
	__u32 pad;
};
_Static_assert(sizeof(struct source) == 40, "source");

/* How much of the ledger's budget this CPU has spent, for admitted [0] and refused [1]. */
struct ledger_budget {
	__u64 window_ns;
	__u32 used[2];
	__u32 skip[2];
	__u32 created;
	__u32 pad;
};
_Static_assert(sizeof(struct ledger_budget) == 32, "ledger_budget");

/* Which interface owns a slot of the counters. Written by attach, read by status. */
struct interface {
	__u64 netns_cookie;
	__u64 attached_at;
	__u64 received_before;
	__u64 judged_before;
	__u32 ifindex;
	__u32 hook;
	__u8 name[16];
};
_Static_assert(sizeof(struct interface) == 56, "interface");

struct meta {
	__u32 abi;
	__u32 pad;
};
_Static_assert(sizeof(struct meta) == 8, "meta");
