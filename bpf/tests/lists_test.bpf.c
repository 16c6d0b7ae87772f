// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * A program that puts hosts on the block list, as one that bans would: the bits of the index, then the entry, in one
 * run. It takes them from the packet.
 */

#include <stdbool.h>
#include <stddef.h>

#include "../abi.h"
#include "../frozen.h"
#include "../maps.h"
#include "../index.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* What the packet is: the first IPv4 host, and how many in a row. Then room for the smallest frame that may be run. */
struct hosts {
	__be32 first;
	__u32 count;
	__u8 pad[56];
};

#define MAX_COUNT 64

static long add_one(__u32 n, void *of)
{
	const struct hosts *h = of;
	struct list_entry entry = { .prefixlen = 32, .listed = 1 };
	struct prefix_key key = { .prefixlen = 32, .addr = { .family = 4 } };

	key.addr.word[0] = bpf_htonl(bpf_ntohl(h->first) + n);
	index_host(&key.addr, LIST_BLOCK);
	bpf_map_update_elem(&block_hosts, &key, &entry, BPF_ANY);
	return 0;
}

SEC("tc")
int ban(struct __sk_buff *ctx)
{
	struct hosts h;

	if (bpf_skb_load_bytes(ctx, 0, &h, sizeof(h)) || h.count > MAX_COUNT)
		return 1;
	bpf_loop(h.count, add_one, &h, 0);
	return 0;
}
