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
	ABI_VERSION = 8,
	METER_WAYS = 8,
	METER_BUCKETS = 1 << 17,
	POLICY_SLOTS = 4,
	MAX_INTERFACES = 64,
	MAX_SERVICES = 256, /* in one policy */
	MAX_LIMITS = 4096, /* in one policy, twice what it may hold; the last are of answers */
	MAX_PACKET_LIMITS = 12, /* that one packet meets: 8 of its service and 4 global */
	SERVICE_IDS = 2 * MAX_SERVICES, /* of two policies, for counts that outlive a policy */
	LIMIT_IDS = 2 * MAX_LIMITS,
	NEAR_IDS = 64, /* whose counters lie among those of the interface */
	QUIC_BUCKETS = 1 << 16,
	QUIC_WAYS = 8,
	MAX_FEEDS = 32, /* the bits of list_entry.feeds */
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
	FEATURE_CONCURRENT = 256,
	FEATURE_BYTES_OUT = 512, /* and the program at egress is there */
	FEATURE_CHALLENGE = 1024,
	FEATURE_PROVEN = 2048, /* a limit that names the source challenges: ACKs are proof */
	FEATURE_EXEMPT = 4096, /* verified sources pass some limit */
	FEATURE_BAN = 8192, /* proof that is refused strikes */
	FEATURE_ACKED = 16384, /* at egress: what is acknowledged over some limit strikes */
	FEATURE_PROBE = 32768, /* a limit that drops or resets bans: SYNs over it are probed */
	FEATURE_ALL = 65535,
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
	REASON_PROVEN,
	REASON_SELF_TEST,
	REASON_OVER_BYTES_OUT,
	REASON_OVER_CONCURRENT,
	REASON_EXEMPT,
	REASON_COUNT,
};

/* What was done with it. */
enum action {
	ACTION_PASS,
	ACTION_DROP,
	ACTION_RESET,
	ACTION_OBSERVE,
	ACTION_CHALLENGE,
	ACTION_PROBE, /* refused, and asked whether its source is real */
	ACTION_COUNT,
};

enum mode {
	MODE_ENFORCE,
	MODE_OBSERVE,
};

enum on_table_full {
	TABLE_FULL_PASS,
	TABLE_FULL_DROP,
	TABLE_FULL_CHALLENGE, /* what `pass` would not let through */
};

/*
 * A verdict: the reason in the lowest 8 bits, then these, then the action (3 bits) and the id of the limit
 * that decided, plus 1. An action of 0 is still to be found by the mode.
 */
enum verdict {
	VERDICT_REFUSED = 0x100,
	VERDICT_OBSERVED = 0x200, /* over a limit that only observes */
	VERDICT_CHALLENGED =
		0x400, /* over one that challenges: refused, if no other limit refuses it */
	VERDICT_PROOF = 0x800, /* and that names the source: its ACK is judged too */
	VERDICT_ACTION_SHIFT = 12,
	VERDICT_STRIKE =
		0x8000, /* over a limit that bans: proof is a strike, and a SYN may be probed */
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
	LIMIT_CONCURRENT,
	LIMIT_BYTES_OUT = 5, /* charged at egress, looked at where a connection is asked for */
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
	LIMIT_PROVEN = 4, /* the second meter of another */
	LIMIT_EXEMPTS = 8, /* not over it is who has completed a handshake here of late */
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
 * An entry holds for up to three reasons, each by itself: an operator typed it (listed), policies name it, feeds
 * name it. expires_ns and scope are those of the first; 0 means never. policies has one bit a policy slot, so
 * that a flip moves lists and limits together; feeds one bit a feed, whose scope and end are in feed_words.
 * Times are CLOCK_MONOTONIC nanoseconds. prefixlen repeats the key's, for a trie does not say how long the
 * match was.
 */
struct list_entry {
	__u64 expires_ns;
	__u64 hits;
	__u32 prefixlen;
	__u8 scope;
	__u8 listed;
	__u8 policies;
	__u8 pad;
	__u32 feeds;
	__u32 pad2;
};
_Static_assert(sizeof(struct list_entry) == 32, "list_entry");
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

#include "abi_feeds.h"
#include "abi_policy.h"
#include "abi_state.h"
#include "abi_conns.h"
#include "abi_ban.h"
