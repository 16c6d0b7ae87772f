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

/* Written by Go: only the lowest byte of active ever differs, so no reader sees half a change. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

/* Written by Go, only slots that control does not name; read beside control. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POLICY_SLOTS);
	__type(key, __u32);
	__type(value, struct policy);
} policies SEC(".maps");

/*
 * The meters: written by the limits stage (compare-and-swap), by `forget` and by the sweep. Never
 * full: a newcomer takes over the oldest slot of its bucket with what that slot owes.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, METER_BUCKETS_PER_REGION *METER_REGIONS);
	__type(key, __u32);
	__type(value, struct bucket);
} meters SEC(".maps");

/* Written by the limits stage where the table is full. One limit, so one entry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct aggregate);
} aggregates SEC(".maps");

/*
 * In front of the lists: a clear bit proves that no entry touches the address. Bits are set by Go
 * before the entry is inserted; a bit that stays set costs a lookup and nothing else.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LIST_INDEX_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} list_index SEC(".maps");

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

/* Written by the account stage on its own CPU, summed by Go. Fixed size. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_INTERFACES *COUNTERS_PER_INTERFACE);
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");

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

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ledger_budget);
} ledger_budget SEC(".maps");

/* Written and read by Go only: which interface each slot of the counters belongs to. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_INTERFACES);
	__type(key, __u32);
	__type(value, struct interface);
} interfaces SEC(".maps");
