// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

//go:build ignore

/*
 * Turns one template frame, run again and again as live frames, into a flood from many sources: gives each
 * frame its own source address, source port and sequence number, and sends it out of one interface. The kernel
 * hands the same pages out again, and whoever got one may have turned it into its answer, so every frame is written
 * anew, as far as headers reach; the checksums are made from the sums of all that does not differ. What frame k looks like
 * follows from k alone; mix.go says the same in Go, and a test holds one against the other.
 */

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_RANGES 64
#define MAX_SLOTS 1024
#define TEMPLATE_WORDS 16
#define IP4_CHECKSUM 10
#define IP4_SOURCE 12
#define IP6_SOURCE 8
#define TCP_SEQ 4
#define ODD 0x9e3779b97f4a7c15ULL

enum { TRANSPORT_NONE, TRANSPORT_UDP, TRANSPORT_TCP, TRANSPORT_ICMP6 };

/* Addresses base + (n << shift), n below count; of each round per_round frames are from here. */
struct range {
	__u64 base_hi;
	__u64 base_lo;
	__u64 count;
	__u32 per_round;
	__u8 shift;
	__u8 random;
	__u8 pad[2];
};

/* Frame k belongs to slot k mod slots; rank counts the slots of the same range before this one. */
struct slot {
	__u16 range;
	__u16 rank;
};

_Static_assert(sizeof(struct range) == 32, "range is shared with Go");
_Static_assert(sizeof(struct slot) == 4, "slot is shared with Go");

volatile const struct range ranges[MAX_RANGES];
volatile const struct slot slots[MAX_SLOTS];
volatile const __u32 slot_count = 1;
volatile const __u64 seed;
volatile const __u64 first_frame;
volatile const __u64 frame_stride = 1;
volatile const __u64 frame_limit;
volatile const __u32 out_ifindex;
volatile const __u32 ip_offset;
volatile const __u32 transport_offset;
volatile const __u32 checksum_offset; /* in the transport header */
volatile const __u32 ip_sum; /* of all that the checksum covers except what is written here */
volatile const __u32 transport_sum;
volatile const __u16 first_port;
volatile const __u32 port_count; /* 0: keep the template's */
volatile const __u64 template[TEMPLATE_WORDS];
volatile const __u64 template_tail; /* the last 8 bytes of what template does not fill up to */
volatile const __u32 template_bytes;
volatile const __u8 is_ip6;
volatile const __u8 transport;
volatile const __u8 new_seq;

__u64 frames_done;

static __always_inline __u64 mix64(__u64 x)
{
	x += ODD;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static __always_inline __u64 words(__u64 x)
{
	return (x >> 48) + ((x >> 32) & 0xffff) + ((x >> 16) & 0xffff) + (x & 0xffff);
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return ~sum;
}

struct frame {
	__u64 src_hi;
	__u64 src_lo;
	__u16 port;
	__u32 seq;
};

/*
 * What is in frame k. The masks change nothing, since Go fills the tables; the verifier wants them, and clang
 * would leave them out if it knew.
 */
static __always_inline void describe(__u64 k, struct frame *f)
{
	__u64 random = mix64(seed ^ mix64(k));
	__u64 round = k / slot_count, n, offset, high = 0;
	__u32 s = k % slot_count;

	barrier_var(s);
	const volatile struct slot *slot = &slots[s & (MAX_SLOTS - 1)];
	__u32 r = slot->range;

	barrier_var(r);
	const volatile struct range *range = &ranges[r & (MAX_RANGES - 1)];
	__u64 count = range->count;
	__u32 shift = range->shift & 127;

	n = round * range->per_round + slot->rank;
	offset = (range->random ? random : n) % count;
	random = mix64(random);
	f->port = first_port + (range->random ? random : n / count) % (port_count ?: 1);
	f->seq = mix64(random);

	if (shift >= 64) {
		high = offset << (shift - 64);
		offset = 0;
	} else if (shift) {
		high = offset >> (64 - shift);
		offset <<= shift;
	}
	f->src_lo = range->base_lo + offset;
	f->src_hi = range->base_hi + high + (f->src_lo < offset);
}

static __always_inline void write_source(void *ip, const struct frame *f)
{
	if (is_ip6) {
		*(__be32 *)(ip + IP6_SOURCE) = bpf_htonl(f->src_hi >> 32);
		*(__be32 *)(ip + IP6_SOURCE + 4) = bpf_htonl(f->src_hi);
		*(__be32 *)(ip + IP6_SOURCE + 8) = bpf_htonl(f->src_lo >> 32);
		*(__be32 *)(ip + IP6_SOURCE + 12) = bpf_htonl(f->src_lo);
		return;
	}
	*(__be32 *)(ip + IP4_SOURCE) = bpf_htonl(f->src_lo);
	*(__be16 *)(ip + IP4_CHECKSUM) = bpf_htons(fold(ip_sum + words(f->src_lo)));
}

static __always_inline void write_transport(void *header, const struct frame *f)
{
	__u64 sum = transport_sum + words(f->src_hi) + words(f->src_lo);
	__u16 check;

	if (port_count) {
		*(__be16 *)header = bpf_htons(f->port);
		sum += f->port;
	}
	if (new_seq) {
		*(__be32 *)(header + TCP_SEQ) = bpf_htonl(f->seq);
		sum += words(f->seq);
	}
	check = fold(sum);
	if (!check && transport == TRANSPORT_UDP)
		check = 0xffff;
	*(__be16 *)(header + checksum_offset) = bpf_htons(check);
}

/* At least 8 bytes, at most those of template. */
static __always_inline int write_template(void *data, void *data_end)
{
	__u32 bytes = template_bytes;

	if (data + bytes > data_end)
		return -1;
#pragma unroll
	for (__u32 i = 0; i < TEMPLATE_WORDS; i++)
		if (8 * i + 8 <= bytes)
			((__u64 *)data)[i] = template[i];
	*(__u64 *)(data + bytes - 8) = template_tail;
	return 0;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	void *ip = data + ip_offset, *header = data + transport_offset;
	struct frame f = {};

	if (frames_done >= frame_limit)
		return XDP_DROP;
	if (write_template(data, data_end) || ip + (is_ip6 ? 40 : 20) > data_end)
		return XDP_ABORTED;
	describe(first_frame + frames_done * frame_stride, &f);
	write_source(ip, &f);
	if (transport != TRANSPORT_NONE) {
		if (header + checksum_offset + 2 > data_end || header + 8 > data_end)
			return XDP_ABORTED;
		write_transport(header, &f);
	}
	frames_done++;
	return bpf_redirect(out_ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
