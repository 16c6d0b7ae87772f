/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Every map, and of each: who writes it, who reads it, what happens when it is full. All are pinned
 * under their own names and shared by the programs of all interfaces.
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

/* Written once when the pin directory is made, read by every command before it trusts the rest. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct meta);
} meta SEC(".maps");

/*
 * Written by Go through mmap, each word by one store; read by every packet. A data section and no
 * array, so that a program has its address and needs no look-up. Pinned as `control`.
 */
struct control_words control SEC(".data.control") = {};

/* See struct tables. In .bss, and the only thing in there; pinned as `tables`. */
struct tables tables;

/* Local addresses to services, and sources to the sets that they are in. Full: no policy is applied. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct scoped_key);
	__type(value, __u64); /* as port_table.listen */
} locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1048576);
	__type(key, struct scoped_key);
	__type(value, __u64); /* one bit a set */
} sets SEC(".maps");

/* Written by Go once, when the map is made: another secret forgets all that quic_recent knows. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct quic_secret);
} quic_secrets SEC(".maps");

/*
 * QUIC connections that were counted in the last ten seconds. Written by the programs, by
 * compare-and-swap. Full: the oldest of a bucket goes, and what comes of its connection counts again.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, QUIC_BUCKETS);
	__type(key, __u32);
	__type(value, struct quic_bucket);
} quic_recent SEC(".maps");

/*
 * The lists: hosts and IPv6 /64s in a hash, every other prefix in a trie. Written by Go (the data
 * path only adds to hits). Full: ended entries make room, else the
 * command that adds is refused.
 */
#define LIST_HOSTS(name, size)                        \
	struct {                                      \
		__uint(type, BPF_MAP_TYPE_HASH);      \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__uint(max_entries, size);            \
		__type(key, struct prefix_key);       \
		__type(value, struct list_entry);     \
	} name SEC(".maps")

#define LIST_PREFIXES(name, size)                     \
	struct {                                      \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);  \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__uint(max_entries, size);            \
		__type(key, struct prefix_key);       \
		__type(value, struct list_entry);     \
	} name SEC(".maps")

LIST_HOSTS(allow_hosts, 131072);
LIST_PREFIXES(allow_prefixes, 131072);
LIST_HOSTS(block_hosts, 1048576);
LIST_PREFIXES(block_prefixes, 262144);

/* Written and read by Go only. Full: the entry stands without its note. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct list_note_key);
	__type(value, struct list_note);
} list_notes SEC(".maps");

/* Written and read by Go only: which feed each bit of an entry stands for. Full: a new feed is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_FEEDS);
	__type(key, __u32);
	__type(value, struct feed);
} feeds SEC(".maps");

/* Written by the account stage on its own CPU, summed by Go. Fixed size. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_INTERFACES);
	__type(key, __u32);
	__type(value, struct counts);
} counters SEC(".maps");

/* The same by service, what it admitted, and by limit, what was over it: of ids from NEAR_IDS on. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SERVICE_IDS);
	__type(key, __u32);
	__type(value, struct counter);
} service_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LIMIT_IDS);
	__type(key, __u32);
	__type(value, struct counter);
} limit_counters SEC(".maps");

/* Written and read by Go only: what the counters of an id stood at when a service or limit got it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SERVICE_IDS);
	__type(key, __u32);
	__type(value, struct counter);
} service_bases SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LIMIT_IDS);
	__type(key, __u32);
	__type(value, struct counter);
} limit_bases SEC(".maps");

/*
 * The ledger of sources: written by the account stage, read by `sources`. Full: the least recently
 * used entry goes. It decides nothing, so a flood can blur it and cannot bend it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct source_key);
	__type(value, struct source);
} sources SEC(".maps");

/* Written and read by Go only: which interface each slot of the counters belongs to. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_INTERFACES);
	__type(key, __u32);
	__type(value, struct interface);
} interfaces SEC(".maps");

/* Written and read by Go only. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SERVICE_IDS);
	__type(key, __u32);
	__type(value, struct service_name);
} service_names SEC(".maps");

/* The last policies as they were applied, for `policy` and `rollback`. Full: no policy is applied. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct policy_text_key);
	__type(value, struct policy_piece);
} policy_texts SEC(".maps");

/* Written and read by Go only, before each change of what is saved. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct change_mark);
} changes SEC(".maps");

/*
 * Connections by what counts them; see conns_table.h. Written by the gate, the state changes and the seed, read
 * by them and for every SYN. No packet can add to it: only who completes a handshake. Full: the connection is
 * let through and not counted, or refused if the policy drops on a full table; conn_tallies tells.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CONN_KEYS);
	__type(key, struct conn_key);
	__type(value, __u64);
} conns SEC(".maps");

/* What a socket is counted under, in the socket. It ends with it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct conn_held);
} conn_sockets SEC(".maps");

/* From the gate to the state change, on one CPU; see conns_note.h. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CONN_RUNNERS);
	__type(key, __u32);
	__type(value, struct conn_note);
} conn_notes SEC(".maps");

/* Written by the programs of connections on their own CPU, summed by Go. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct conn_tally);
} conn_tallies SEC(".maps");

/* SYNs that were let through, and how many wait for each key; see conns_pending.h. Full: the oldest goes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PENDING_BUCKETS);
	__type(key, __u32);
	__type(value, struct pending_bucket);
} pending SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WAITING_CELLS);
	__type(key, __u32);
	__type(value, __u64);
} waiting SEC(".maps");

/* Written by Go, only in slots that are not live: where in a policy the service of an id is, plus 1. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POLICY_SLOTS *SERVICE_IDS);
	__type(key, __u32);
	__type(value, __u32);
} service_places SEC(".maps");

/* Ports that somebody listens on, in the namespace that is being seeded: written by the seed, cleared by Go. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LISTENING_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} conn_listening SEC(".maps");

/*
 * When a source last completed a handshake with a socket here, CLOCK_MONOTONIC nanoseconds. Full: whoever has
 * not done so for longest goes. No SYN can add to it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, VERIFIED_SOURCES);
	__type(key, struct addr);
	__type(value, __u64);
} verified SEC(".maps");

/* Written and read by Go only. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct conn_control);
} conn_controls SEC(".maps");

/*
 * Who is banned, written by the data path on the last strike, and by Go on command. No LRU: nobody is pushed out. What
 * has ended stays until its repeats have faded; commands take it away. Full: the ban that is due is not made, which
 * ban_tallies tells; its source has to prove itself for each strike, so nobody fills it from addresses that are not
 * his.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, BANNED_SOURCES);
	__type(key, struct ban_key);
	__type(value, struct ban);
} bans SEC(".maps");

/*
 * Strikes that have made no ban yet. Full: who has struck least lately is forgotten, so an offender beside 65,536
 * others who all prove themselves is banned later, and nobody sooner.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, STRIKERS);
	__type(key, struct strike_key);
	__type(value, struct striker);
} strikes SEC(".maps");

/* What of a socket's acknowledged bytes is charged, in the socket. No memory: what it downloads never strikes. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct acked);
} acked_sockets SEC(".maps");

/* What each limit's ban is. Written by Go, only in slots that are not live. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, POLICY_SLOTS *MAX_LIMITS);
	__type(key, __u32);
	__type(value, struct ban_term);
} ban_terms SEC(".maps");

/*
 * Whom no ban may cover: the host's own addresses, gateways, resolvers, and who is logged in. Written by Go, IPv6
 * prefixes cut to 64 bits. Full: the command that fills it fails.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PROTECTED_PREFIXES);
	__type(key, struct prefix_key);
	__type(value, __u64);
} protected SEC(".maps");

/* Written by the data path on its own CPU, summed by Go. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ban_tally);
} ban_tallies SEC(".maps");
