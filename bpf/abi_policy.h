/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Types of a policy as it lies in the kernel: limits, services, what finds them, the word that says which policy
 * is in force, and the texts that are kept. Included by abi.h, behind what it needs.
 */

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
 * than a policy: its own TAT, aggregate and counter lie there. proven is the place of its second meter, which only
 * proof of the source charges; 0: it has none. from and except are bits of the sets: a
 * limit applies to sources in one of from (0: all) and none of except. debt is, of bytes_out alone, what may be
 * owed at most, in units: more than a burst, for what was sent is charged in full. acked is the place of a meter of the
 * same limit that only what was acknowledged charges; 0: it bans nobody. probed is the place of one that only answers to
 * its probes and completed handshakes charge; 0: it probes nobody. Of concurrent connections,
 * capacity is how many there may be, and nothing else of this is used.
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
	__u32 proven;
	__u64 from;
	__u64 except;
	__u64 aggregate_cost_ns;
	__u64 aggregate_capacity_ns;
	__u32 mask6[4];
	__u64 debt;
	__u32 acked;
	__u32 probed;
};
_Static_assert(sizeof(struct limit) == 128, "limit");

enum service_flag {
	SERVICE_VOLUME = 1, /* some limit counts packets or bytes: every packet is judged */
	SERVICE_SETS = 2, /* the sets of the source must be known */
	SERVICE_COUNT_REJECTED = 4,
	SERVICE_CONCURRENT =
		32, /* some limit counts concurrent connections, of the global ones too */
	SERVICE_PROVES = 128, /* some limit has a second meter: ACKs that are proof are judged */
	SERVICE_PROBES =
		256, /* some limit probes, of the global ones too: its probes' ACKs strike */
	SERVICE_DROPS =
		16, /* all its limits are of new connections and drop, the global ones too */
	SERVICE_BYTES_OUT = 64, /* some limit counts what is sent, of the global ones too */
	SERVICE_ACKED = 512, /* and some such limit bans: what is acknowledged is counted apart */
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
	struct feed_words feeds;
};
_Static_assert(sizeof(struct control_words) == 64 + 64 * POLICY_SLOTS + 272, "control_words");

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
