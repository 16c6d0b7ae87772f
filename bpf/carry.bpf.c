// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * Moves counts from the values of one map to those of another, for `upgrade`: they are added where programs
 * count meanwhile, and gone where they came from, in one run that a kill of the command cannot cut in two. So
 * what lies in the old map is what has not been moved yet. Nothing may count in the old map any more.
 */

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "carry.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Names that Go needs, kept in the object's BTF though no variable has these types. */
const struct {
	enum carry carry;
	struct carry_order order;
} *const names_for_go __attribute__((unused)) = 0;

/* Settled when it is loaded: sizes of the values, words to move in each, CPUs of the old map (0: not per CPU). */
volatile const __u32 from_bytes = 8;
volatile const __u32 to_bytes = 8;
volatile const __u32 words = 1;
volatile const __u32 cpus = 0;

/* Stand for any map: Go puts the real ones in their places. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} from SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} to SEC(".maps");

/* Written by Go through mmap before each run; programs mark what is missing. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, CARRY_PAIRS);
	__type(key, __u32);
	__type(value, struct carry_pair);
} pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CARRY_WORDS);
	__type(key, __u32);
	__type(value, struct carry_word);
} plan SEC(".maps");

/* One step is one word of one pair on one CPU. */
struct carry_walk {
	__u32 first;
	__u32 missing;
};

static __always_inline __u64 *word_at(void *value, __u32 at, __u32 bytes)
{
	at &= 0xfff8;
	if (!value || at > bytes - sizeof(__u64))
		return NULL;
	return value + at;
}

static long carry_step(__u32 index, struct carry_walk *walk)
{
	__u32 cpu_count = cpus ? cpus : 1, word_count = words ? words : 1;
	__u32 step = walk->first + index;
	__u32 word_index = step / cpu_count % word_count;
	__u32 pair_index = step / cpu_count / word_count;
	struct carry_pair *pair = bpf_map_lookup_elem(&pairs, &pair_index);
	struct carry_word *word = bpf_map_lookup_elem(&plan, &word_index);
	__u64 *source, *target;

	if (!pair || !word)
		return 1;
	source = cpus ? bpf_map_lookup_percpu_elem(&from, pair->from, step % cpu_count) :
			bpf_map_lookup_elem(&from, pair->from);
	source = word_at(source, word->from, from_bytes);
	if (!source)
		return 0;
	target = word_at(bpf_map_lookup_elem(&to, pair->to), word->to, to_bytes);
	if (!target) {
		pair->missing = 1;
		walk->missing++;
		return 0;
	}
	if (*source) {
		__sync_fetch_and_add(target, *source);
		*source = 0;
	}
	return 0;
}

/* The packet says which steps to take. Returns how many found no place to move to. */
SEC("xdp")
int carry_counts(struct xdp_md *ctx)
{
	struct carry_order *order = (void *)(long)ctx->data;
	struct carry_walk walk = {};

	if ((void *)(order + 1) > (void *)(long)ctx->data_end)
		return -1;
	walk.first = order->first;
	bpf_loop(order->steps, carry_step, &walk, 0);
	return walk.missing;
}
