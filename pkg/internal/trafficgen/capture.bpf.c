// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

//go:build ignore

/*
 * Turns arriving frames into counts by source address, or into a record of the first ones, for tests of the
 * generator. count_sources drops what it counts; frames that are not plain IPv4 or IPv6 behind Ethernet pass
 * uncounted. record_frames drops everything.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct source {
	__u8 addr[16]; /* IPv4: the first four */
};

/* Written by arriving frames, read by the test. Full: sources that come later count as unknown. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct source);
	__type(value, __u64);
} sources SEC(".maps");

#define SHORTEST_FRAME 14
#define MAX_FRAME 2048
#define MAX_FRAMES 512

struct frame {
	__u32 len;
	__u8 data[MAX_FRAME];
};

/* Written by arriving frames, read by the test. Full: later frames are only counted. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_FRAMES);
	__type(key, __u32);
	__type(value, struct frame);
} frames SEC(".maps");

__u64 total;
__u64 unknown;

SEC("xdp")
int count_sources(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct source key = {};
	__u64 one = 1, *seen;

	if (data + 14 + 40 > data_end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		__builtin_memcpy(&key, data + 14 + 12, 4);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		__builtin_memcpy(&key, data + 14 + 8, 16);
	else
		return XDP_PASS;
	__sync_fetch_and_add(&total, 1);
	seen = bpf_map_lookup_elem(&sources, &key);
	if (!seen && !bpf_map_update_elem(&sources, &key, &one, BPF_NOEXIST))
		return XDP_DROP;
	/* Another CPU may have been first with it. */
	seen = seen ?: bpf_map_lookup_elem(&sources, &key);
	__sync_fetch_and_add(seen ?: &unknown, 1);
	return XDP_DROP;
}

SEC("xdp")
int record_frames(struct xdp_md *ctx)
{
	__u32 len = ctx->data_end - ctx->data, at = total;
	struct frame *frame = bpf_map_lookup_elem(&frames, &at);

	if (frame && len <= MAX_FRAME) {
		/* Two checks, and not one of a difference: the verifier of 6.1 keeps no bound from that. */
		asm volatile("" : "+r"(len));
		if (len >= SHORTEST_FRAME) {
			frame->len = len;
			bpf_xdp_load_bytes(ctx, 0, frame->data, len);
		}
	}
	__sync_fetch_and_add(&total, 1);
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
