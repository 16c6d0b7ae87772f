// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * The meters alone, on the time and the hashes that a test gives them: one run works off a stretch of
 * the steps map and leaves each verdict there.
 */

#include <stdbool.h>
#include <stddef.h>

#include "../abi.h"
#include "../frozen.h"
#include "../maps.h"
#include "../meters.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define MAX_STEPS (1 << 20)
#define MAX_LIMITS 4
/* How long a step waits for the other CPUs of its crew; then it goes on alone. */
#define MAX_SPINS 20000

/* One decision: written by the test, the verdict by the program. */
struct step {
	__u64 hash;
	__u64 now_ns;
	__u32 limit;
	__u32 verdict;
};

/* What one run does. It is the packet, so that runs on several CPUs do not share it. */
struct job {
	__u32 first;
	__u32 count;
	__u32 crew; /* above 1: that many CPUs take each step together */
	__u32 pad;
};

/* Read and written by the program, and by Go through mmap. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_STEPS);
	__type(key, __u32);
	__type(value, struct step);
} steps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_LIMITS);
	__type(key, __u32);
	__type(value, struct limit);
} step_limits SEC(".maps");

/* The names of the verdicts, kept in the object's BTF for Go. */
const enum meter_verdict *const names_for_go __attribute__((unused)) = 0;

/* How many steps the whole crew has come to. */
volatile __u64 arrived SEC(".data.arrived") = 0;

struct spin {
	__u64 until;
};

static long spin(__u32 index, void *ctx)
{
	const struct spin *s = ctx;

	return arrived >= s->until;
}

static __always_inline void meet(__u32 index, __u32 crew)
{
	struct spin s = { .until = ((__u64)index + 1) * crew };

	__sync_fetch_and_add(&arrived, 1);
	bpf_loop(MAX_SPINS, spin, &s, 0);
}

static long charge_step(__u32 index, void *ctx)
{
	const struct job *job = ctx;
	__u32 at = job->first + index;
	struct step *step = bpf_map_lookup_elem(&steps, &at);
	struct limit *limit;
	__u32 which;

	if (!step)
		return 1;
	which = step->limit;
	limit = bpf_map_lookup_elem(&step_limits, &which);
	if (!limit)
		return 1;
	if (job->crew > 1)
		meet(index, job->crew);
	step->verdict = meter_charge_inline(limit, step->hash, step->now_ns, limit->cost);
	if (step->verdict == METER_OVER && limit->flags & LIMIT_COUNT_REJECTED)
		meter_reject(limit, step->hash, step->now_ns, limit->cost);
	return 0;
}

SEC("xdp")
int charge_steps(struct xdp_md *ctx)
{
	const struct job *packet = (void *)(long)ctx->data;
	struct job job;

	if ((void *)(packet + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	job = *packet;
	return bpf_loop(job.count, charge_step, &job, 0) == job.count ? XDP_PASS : XDP_ABORTED;
}
