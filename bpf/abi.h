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
	ABI_VERSION = 2,
	METER_WAYS = 8,
	METER_BUCKETS = 1 << 17,
	POLICY_SLOTS = 4,
	MAX_INTERFACES = 64,
	MAX_SERVICES = 256, /* in one policy */
	MAX_LIMITS = 4096, /* in one policy, twice what it may hold; the last two are of answers */
	MAX_PACKET_LIMITS = 12, /* that one packet meets: 8 of its service and 4 global */
	SERVICE_IDS = 2 * MAX_SERVICES, /* of two policies, for counts that outlive a policy */
	LIMIT_IDS = 2 * MAX_LIMITS,
	NEAR_IDS = 64, /* whose counters lie among those of the interface */
	QUIC_BUCKETS = 1 << 16,
	QUIC_WAYS = 8,
	LIST_INDEX_WORDS4 = 1 << 18, /* one bit an IPv4 /24 */
	LIST_INDEX_WORDS6 = 1 << 16, /* one bit a hash of an IPv6 /32 */
	LIST_INDEX_WORDS = LIST_INDEX_WORDS4 + LIST_INDEX_WORDS6,
};

/* What no policy in force needs is compiled out of a program when it is loaded. */
enum feature {
	FEATURE_PORTS = 1, /* a service is not all TCP ports */
	FEATURE_LOCAL = 2, /* a service listens on some local addresses only */
	FEATURE_UDP = 4,
	FEATURE_QUIC = 8,
	FEATURE_SETS = 16, /* from, except or a service's allow */
	FEATURE_VOLUME = 32, /* packets or bytes_in */
	FEATURE_MANY = 64, /* a packet may meet more than one limit, or one that is not plain */
	FEATURE_RESET = 128,
	FEATURE_ALL = 255,
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
	REASON_OVER_PACKETS,
	REASON_OVER_BYTES_IN,
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
	ACTION_RESET,
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

/*
 * A verdict: the reason in the lowest 8 bits, then these, then the action (3 bits) and the id of the limit
 * that decided, plus 1. An action of 0 is still to be found by the mode.
 */
enum verdict {
	VERDICT_REFUSED = 0x100,
	VERDICT_OBSERVED = 0x200, /* over a limit that only observes */
	VERDICT_ACTION_SHIFT = 12,
	VERDICT_LIMIT_SHIFT = 16,
};

/* Which packets of a source a block entry covers. */
enum scope {
	SCOPE_ALL,
	SCOPE_NEW,
};

/* What a limit counts. */
enum limit_kind {
	LIMIT_NONE,
	LIMIT_NEW,
	LIMIT_PACKETS,
	LIMIT_BYTES_IN,
};

/* Whose count it keeps. */
enum limit_per {
	PER_SOURCE,
	PER_DESTINATION,
	PER_SOURCE_DESTINATION,
	PER_SERVICE,
};

enum limit_flag {
	LIMIT_COUNT_REJECTED = 1,
	LIMIT_OBSERVES = 2, /* over it a packet goes on to the next limit */
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
 * An entry holds for two reasons, each by itself: somebody put it there (listed), or policies name it.
 * expires_ns and scope are those of the former; 0 means never. policies has one bit a policy slot, so
 * that a flip moves lists and limits together. Times are CLOCK_MONOTONIC nanoseconds. prefixlen repeats
 * the key's, for a trie does not say how long the match was.
 */
struct list_entry {
	__u64 expires_ns;
	__u64 hits;
	__u32 prefixlen;
	__u8 scope;
	__u8 listed;
	__u8 policies;
	__u8 pad;
};
_Static_assert(sizeof(struct list_entry) == 24, "list_entry");
_Static_assert(POLICY_SLOTS <= 8, "policies has a bit for each slot");

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

/* The secret multipliers of every limit's hash; see hash.h. All are odd. */
enum hash_key {
	HASH_ODD1,
	HASH_ODD2,
	HASH_ODD3,
	HASH_KEYS,
};

/*
 * One limit. The first cache line is what a refusal reads.
 *
 * cost is T and capacity is B*T, both in units of 2^unit_shift nanoseconds; what is charged is
 * amount * cost >> cost_shift, rounded up. A TAT that is further ahead of now than stale units has
 * wrapped around and counts as past; all limits of one region share unit and stale. over is the whole
 * verdict on what is over the limit, action included (enum verdict). id is the limit's for longer
 * than a policy: its own TAT, aggregate and counter lie there. from and except are bits of the sets: a
 * limit applies to sources in one of from (0: all) and none of except.
 */
struct limit {
	__u64 seed;
	__u64 cost;
	__u64 capacity;
	__u64 stale;
	__u32 first_bucket;
	__u32 bucket_mask;
	__u32 mask4;
	__u32 over;
	__u32 id;
	__u8 unit_shift;
	__u8 cost_shift;
	__u8 kind;
	__u8 per;
	__u32 flags;
	__u32 pad1;
	__u64 from;
	__u64 except;
	__u64 aggregate_cost_ns;
	__u64 aggregate_capacity_ns;
	__u32 mask6[4];
	__u64 pad2[2];
};
_Static_assert(sizeof(struct limit) == 128, "limit");

enum service_flag {
	SERVICE_VOLUME = 1, /* some limit counts packets or bytes: every packet is judged */
	SERVICE_SETS = 2, /* the sets of the source must be known */
	SERVICE_COUNT_REJECTED = 4,
	SERVICE_DROPS =
		16, /* all its limits are of new connections and drop, the global ones too */
	SERVICE_PLAIN =
		8, /* at most one limit: per source, new, drop or reset, and no global one */
};

/* A service of one policy: its limits are limit_count from first_limit on. id outlives the policy. */
struct service {
	__u32 id;
	__u32 first_limit;
	__u32 limit_count;
	__u32 flags;
	__u64 allow; /* bits of the sets whose sources pass uncounted */
	__u64 pad;
};
_Static_assert(sizeof(struct service) == 32, "service");

/*
 * Which service a port belongs to, by protocol (0 TCP, 1 UDP): 0 none; LISTEN_CLASS and a number: it
 * depends on the local address, see `locals`; else the service's place in the policy plus 1, with
 * LISTEN_QUIC where QUIC is told from other UDP.
 */
enum listen {
	LISTEN_SERVICE = 0x1ff,
	LISTEN_QUIC = 0x4000,
	LISTEN_CLASS = 0x8000,
	LISTEN_PROTOCOLS = 2,
	LISTEN_PORTS = 65536,
};

struct port_table {
	__u16 listen[LISTEN_PROTOCOLS * LISTEN_PORTS];
};
_Static_assert(sizeof(struct port_table) == 262144, "port_table");

/*
 * Key of the tries that belong to a policy. `sets`: scope is the policy slot. `locals`: scope is the slot
 * in the upper 16 bits and the class of the port in the lower.
 */
struct scoped_key {
	__u32 prefixlen;
	__u32 scope;
	struct addr addr;
};
_Static_assert(sizeof(struct scoped_key) == 28, "scoped_key");

/*
 * What is in force for all services: one generation. Only an unused slot is written, then control flips
 * to it. mask4 and mask6 say what one source is in the ledger.
 */
struct policy {
	__u32 mode;
	__u32 on_table_full;
	__u32 strict_parsing;
	__u32 precise_clock;
	__u32 global_first;
	__u32 global_count;
	__u32 services; /* how many, for Go */
	__u32 limits;
	__u32 mask4;
	__u32 mask6[4];
	__u32 features; /* that a program must have for this policy */
	__u32 listed; /* how many list entries, locals and sets name this slot, at most */
	__u32 generation;
};
_Static_assert(sizeof(struct policy) == 64, "policy");

/*
 * The live word: generation (16 bits), fallback (16), deadline (32, seconds of CLOCK_MONOTONIC). A
 * generation's slot is its lowest bits. From the deadline on (0: none) the fallback is in force, with
 * nobody to flip the word. families has bit 0 where the lists hold IPv4, bit 1 where IPv6.
 */
struct control_words {
	__u64 word;
	__u64 families;
	__u64 hash[HASH_KEYS];
	__u64 last; /* the highest generation that was ever given, for Go */
	__u64 tick_ns; /* coarse time is jiffies * tick_ns + jiffies_ns; 0: ask the coarse clock */
	__u64 jiffies_ns;
	struct policy policies[POLICY_SLOTS];
};
_Static_assert(sizeof(struct control_words) == 64 + 64 * POLICY_SLOTS, "control_words");

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

/*
 * The large tables, side by side in one map, so that a program has the address of each and needs no look-up.
 * Go maps them into memory. Sizes are powers of two, for an index is bounded by a mask.
 *
 * meters: written by the limits stage (compare-and-swap), by `forget` and by the sweep. Never full: a
 * newcomer takes over the oldest slot of its bucket with what that slot owes.
 * limit_states: written by the limits stage: `per: service`, and what full tables let through.
 * list_index: a clear bit proves that no list entry touches the address. Bits are set by Go before the
 * entry is inserted; a bit that stays set costs a lookup and nothing else.
 * limits, services, ports: written by Go, only in slots that control does not name.
 */
struct tables {
	struct bucket meters[METER_BUCKETS];
	struct limit_state limit_states[LIMIT_IDS];
	__u64 list_index[LIST_INDEX_WORDS];
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

/*
 * What one CPU counts on one interface; and what it keeps from stage to stage and packet to packet: the key
 * of the datagram that it judges, too large for a stack, and a hint.
 */
struct counts {
	struct ledger_budget ledger;
	struct quic_key quic;
	__u32 refused_by; /* the limit that refused last: id of the service << 8 | its number there */
	__u32 pad;
	struct counter by_end[REASON_COUNT * ACTION_COUNT];
	struct counter near_limits[NEAR_IDS];
	struct counter near_services[NEAR_IDS];
};
_Static_assert(sizeof(struct counts) < 4096, "counts that do not lie a page apart, see account.h");

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

/* The name of a service by its id, for people. Empty: the id is free. */
struct service_name {
	__u8 name[32];
};

/* The text of a generation's policy, compressed, in pieces; what is left of the last is zero. */
enum policy_text {
	POLICY_TEXT_BYTES = 4096 - 48,
};

struct policy_text_key {
	__u32 generation;
	__u32 piece;
};

struct policy_piece {
	__u32 bytes;
	__u32 pieces;
	__u64 applied; /* UNIX seconds */
	__u8 by[32];
	__u8 text[POLICY_TEXT_BYTES];
};
_Static_assert(sizeof(struct policy_piece) == 4096, "policy_piece");
