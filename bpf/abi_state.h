/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Types of what is counted and remembered: meters, connections of QUIC, counters, the ledger, interfaces.
 * Included by abi.h, behind what it needs.
 */

/* One cache line: slot = tag (23 bits) | borrowed (1 bit) | TAT (40 bits). Zero is empty. */
struct bucket {
	__u64 slot[METER_WAYS];
};
_Static_assert(sizeof(struct bucket) == 64, "bucket");

/*
 * What a limit keeps beside the meters, whole TATs in nanoseconds: its own where it is `per: service`,
 * and that of what a full table lets through. A cache line each.
 */
struct limit_state {
	__u64 tat_ns;
	__u64 aggregate_tat_ns;
	__u64 pad[6];
};
_Static_assert(sizeof(struct limit_state) == 64, "limit_state");

enum proof_size {
	PROOF_SOURCES = 1 << 14,
};

/*
 * The large tables, side by side in one map, so that a program has the address of each and needs no look-up.
 * Go maps them into memory. Sizes are powers of two, for an index is bounded by a mask.
 *
 * meters: written by the limits stage (compare-and-swap), by `forget` and by the sweep. Never full: a
 * newcomer takes over the oldest slot of its bucket with what that slot owes.
 * limit_states: written by the limits stage: `per: service`, and what full tables let through.
 * list_index: a clear bit proves that no list entry touches the address. Bits are set by Go before the
 * entry is inserted; a bit that stays set costs a lookup and nothing else.
 * proof_until: when the next ACK of a source that was challenged or probed lately is no longer looked at, in seconds of
 * CLOCK_MONOTONIC, by a hash of the source; two sources of one hash cost each other a look. proof_until_jiffies: of
 * the last of all. Written by the act stage.
 * limits, services, ports: written by Go, only in slots that control does not name.
 */
struct tables {
	struct bucket meters[METER_BUCKETS];
	struct limit_state limit_states[LIMIT_IDS];
	__u64 list_index[LIST_INDEX_WORDS];
	__u32 proof_until[PROOF_SOURCES];
	__u64 proof_until_jiffies;
	__u64 pad[7];
	struct limit limits[POLICY_SLOTS * MAX_LIMITS];
	struct service services[POLICY_SLOTS * MAX_SERVICES];
	struct port_table ports[POLICY_SLOTS];
};

/* The secret words of the table of QUIC connections; see quic.h. The last three are odd. */
enum quic_key_word {
	QUIC_KEY_IPV4,
	QUIC_KEY_IPV6,
	QUIC_KEY_ODD1,
	QUIC_KEY_ODD2,
	QUIC_KEY_ODD3,
	QUIC_KEYS,
};

struct quic_secret {
	__u64 key[QUIC_KEYS];
};
_Static_assert(sizeof(struct quic_secret) == 40, "quic_secret");

/* One cache line; see quic_slot.h. */
struct quic_bucket {
	__u64 slot[QUIC_WAYS];
};
_Static_assert(sizeof(struct quic_bucket) == 64, "quic_bucket");

struct counter {
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct counter) == 16, "counter");

/* How much of the ledger's budget this CPU has spent, for admitted [0] and refused [1]. */
struct ledger_budget {
	__u64 window_ns;
	__u32 used[2];
	__u32 skip[2];
	__u32 created[2];
};
_Static_assert(sizeof(struct ledger_budget) == 32, "ledger_budget");

/* What the table of QUIC connections knows a datagram by: hashes under secret words. */
struct quic_key {
	__u64 connection;
	__u64 dcid;
	__u32 bucket;
	__u32 token; /* an Initial with a token */
};
_Static_assert(sizeof(struct quic_key) == 24, "quic_key");

enum challenge_size {
	CHALLENGE_SYN_BYTES = 60, /* the largest TCP header, as the kernel's helper wants it */
};

/* What a SYN-ACK may promise in the listener's name. */
struct promise {
	__u16 window;
	__u8 wscale; /* no larger than what the kernel takes when the ACK comes in */
	__u8 options; /* the kernel reads a timestamp's options back: tcp_timestamps is 2 */
	__u8 sack;
	__u8 scaling;
	__u16 pad;
};
_Static_assert(sizeof(struct promise) == 8, "promise");

/* A TCP header with the options that a SYN-ACK may have. */
struct synack {
	__be16 sport;
	__be16 dport;
	__be32 seq;
	__be32 ack;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__be16 check;
	__be16 urgent;
	__be32 options[5];
};
_Static_assert(sizeof(struct synack) == 40, "synack");

/* A SYN's options, as they are found: where in the header, and what they say. */
struct option_walk {
	__u32 at;
	__u32 end;
	__be32 timestamp;
	__u8 wscale;
	__u8 has_wscale;
	__u8 has_sack;
	__u8 has_timestamps;
};
_Static_assert(sizeof(struct option_walk) == 16, "option_walk");

/* What is at work while a SYN is answered, too large for a stack. */
struct challenge {
	__u8 syn[CHALLENGE_SYN_BYTES];
	struct synack answer;
	struct promise promise;
	__u32 mss; /* ours */
	struct option_walk walk;
};
_Static_assert(sizeof(struct challenge) == 128, "challenge");

/*
 * What one CPU counts on one interface; and what it keeps from stage to stage and packet to packet: the key
 * of the datagram that it judges and the answer that it writes, too large for a stack, and a hint.
 */
struct counts {
	struct challenge challenge;
	struct quic_key quic;
	__u32 refused_by; /* the limit that refused last: id of the service << 8 | its number there */
	__u32 proof; /* the cookie of the proof that is judged, less its sequence number */
	__u32 probed; /* which of the limits that its packets meet it answers a probe of, plus 1 */
	__u32 sampled; /* the ledger has written the packet that is judged: it may be probed */
	struct ledger_budget ledger;
	struct counter by_end[REASON_COUNT * ACTION_COUNT];
	struct counter near_limits[NEAR_IDS];
	struct counter near_services[NEAR_IDS];
};
_Static_assert(sizeof(struct counts) - sizeof(struct challenge) - sizeof(struct quic_key) - 16 <=
		       4096,
	       "counts that do not lie a page apart, see account.h");

/* service: an id, or SERVICE_IDS where the packet ended before one was found. */
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

enum interface_flag {
	INTERFACE_LINK_HEADER = 1,
	INTERFACE_SILENT = 2, /* answers would leave without their VLAN tag, so none are sent */
};

/* Which interface owns a slot of the counters. Written by attach, read by status. */
struct interface {
	__u64 netns_cookie;
	__u64 attached_at;
	__u64 received_before;
	__u64 judged_before;
	__u32 ifindex;
	__u32 hook;
	__u32 features; /* that its program has at least */
	__u32 flags;
	__u32 observe_after; /* as its program has it */
	__u32 pad;
	__u8 name[16];
};
_Static_assert(sizeof(struct interface) == 72, "interface");

struct meta {
	__u32 abi;
	__u32 pad;
};
_Static_assert(sizeof(struct meta) == 8, "meta");

/*
 * Which instance this is, drawn at random when its maps are made, and how many changes commands have begun:
 * what is saved names the last change that it holds, so the next command knows whether one was lost.
 */
struct change_mark {
	__u64 instance;
	__u64 begun;
};
_Static_assert(sizeof(struct change_mark) == 16, "change_mark");
