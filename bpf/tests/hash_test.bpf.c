// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* The hash by which a limit counts, alone: a run hashes all that the test put into the map. */

#include <stdbool.h>
#include <stddef.h>

#include "../abi.h"
#include "../frozen.h"
#include "../maps.h"
#include "../limits.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define MAX_PACKETS 4096

struct hashed {
	__u64 hash;
	struct addr src;
	struct addr dst;
};

/* Source and destination written by the test, hashes by the program. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PACKETS);
	__type(key, __u32);
	__type(value, struct hashed);
} packets SEC(".maps");

/* Its seed, its masks and what it counts per, with the multipliers of control, are what is hashed under. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct limit);
} hash_limit SEC(".maps");

static long hash_one(__u32 index, void *ctx)
{
	struct hashed *h = bpf_map_lookup_elem(&packets, &index);
	__u32 zero = 0;
	struct limit *limit = bpf_map_lookup_elem(&hash_limit, &zero);
	struct packet p = {};

	if (!h || !limit)
		return 1;
	p.src = h->src;
	p.dst = h->dst;
	h->hash = hash_key(limit, &p);
	return 0;
}

SEC("xdp")
int hash_packets(struct xdp_md *ctx)
{
	return bpf_loop(MAX_PACKETS, hash_one, NULL, 0) == MAX_PACKETS ? XDP_PASS : XDP_ABORTED;
}
