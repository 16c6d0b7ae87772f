// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* The hash of a source alone: a run hashes all that the test put into the map. */

#include <stdbool.h>
#include <stddef.h>

#include "../abi.h"
#include "../maps.h"
#include "../limits.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define MAX_ADDRESSES 4096

struct hashed {
	__u64 hash;
	struct addr addr;
	__u32 pad;
};

/* Addresses written by the test, hashes by the program. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_ADDRESSES);
	__type(key, __u32);
	__type(value, struct hashed);
} addresses SEC(".maps");

/* Its secret words and its masks are what is hashed under. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct limit);
} hash_limit SEC(".maps");

static long hash_one(__u32 index, void *ctx)
{
	struct hashed *h = bpf_map_lookup_elem(&addresses, &index);
	__u32 zero = 0;
	struct limit *limit = bpf_map_lookup_elem(&hash_limit, &zero);

	if (!h || !limit)
		return 1;
	h->hash = hash_source(limit, &h->addr);
	return 0;
}

SEC("xdp")
int hash_addresses(struct xdp_md *ctx)
{
	return bpf_loop(MAX_ADDRESSES, hash_one, NULL, 0) == MAX_ADDRESSES ? XDP_PASS : XDP_ABORTED;
}
