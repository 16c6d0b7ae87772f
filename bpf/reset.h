/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * A refused SYN, in place, into the RST that answers it (RFC 9293 section 3.10.7.1: SEQ=0,
 * ACK=SEG.SEQ+SEG.LEN, RST and ACK), and back to where it came from. It may write the packet and
 * nothing else; whether an answer is due, and how many, is its caller's to say. An answer is never
 * larger than its SYN.
 */

#include <linux/pkt_cls.h>

#include "reread.h"

#define RESET_TTL 64
#define IPV4_DF 0x4000
#define TCP_BYTES sizeof(struct tcp_header)

typedef long (*store_fn)(void *ctx, __u32 offset, const void *from, __u32 size);

struct macs {
	__u8 to[ETH_ALEN];
	__u8 from[ETH_ALEN];
};

static __always_inline long store_xdp(void *ctx, __u32 offset, const void *from, __u32 size)
{
	return bpf_xdp_store_bytes(ctx, offset, (void *)from, size);
}

/* CHECKSUM_COMPLETE is kept true. It does not cover the link header, whose swap adds up to nothing. */
static __always_inline long store_skb(void *ctx, __u32 offset, const void *from, __u32 size)
{
	return bpf_skb_store_bytes(ctx, offset, from, size, BPF_F_RECOMPUTE_CSUM);
}

/* Whom no host is to answer, or to answer as: unspecified, loopback, multicast, broadcast. */
static __always_inline bool never_a_host(const struct addr *a)
{
	__u32 first = bpf_ntohl(a->word[0]) >> 24;

	if (a->family == 4)
		return first == 0 || first == 127 || first >> 4 == 14 || a->word[0] == ~0U;
	/* ::/96 and ::ffff:0:0/96 hold the first two and IPv4 addresses, which no packet bears. */
	return first == 255 ||
	       (!a->word[0] && !a->word[1] && (!a->word[2] || a->word[2] == bpf_htonl(0xffff)));
}

static __always_inline bool same_addr(const struct addr *a, const struct addr *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

/* A fragment is not: its SYN may never become whole. Nor is land, which would answer itself. */
static __always_inline bool answerable(const struct packet *p)
{
	if (p->proto != IPPROTO_TCP || p->first_fragment)
		return false;
	if (p->kind != KIND_NEW && p->kind != KIND_PROOF && p->kind != KIND_PROBED)
		return false;
	if (never_a_host(&p->src) || never_a_host(&p->dst))
		return false;
	return p->sport != p->dport || !same_addr(&p->src, &p->dst);
}

static __always_inline __u32 ip_bytes(const struct packet *p)
{
	return p->src.family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

/* Ones' complement sum of 32-bit words down to 16 bits (RFC 1071). */
static __always_inline __u16 fold_sum(__u64 sum)
{
	sum = (sum >> 32) + (__u32)sum;
	sum = (sum >> 32) + (__u32)sum;
	sum = (sum >> 16) + (__u16)sum;
	return (sum >> 16) + (__u16)sum;
}

static __always_inline __u64 sum_words(const void *from, __u32 bytes)
{
	const __u32 *word = from;
	__u64 sum = 0;

#pragma unroll
	for (__u32 i = 0; i < bytes / 4; i++)
		sum += word[i];
	return sum;
}

/* The same of the pseudo header of an answer, in both families: IPv4 leaves three words zero. */
static __always_inline __u64 pseudo_sum(const struct packet *p, __u32 tcp_bytes)
{
	return sum_words(p->src.word, sizeof(p->src.word)) +
	       sum_words(p->dst.word, sizeof(p->dst.word)) + bpf_htonl(IPPROTO_TCP + tcp_bytes);
}

/* The SYN's header into that of its answer. SEG.LEN counts the SYN and the data behind it. */
static __always_inline bool turn_tcp(struct tcp_header *tcp, const struct packet *p)
{
	__u32 header = (tcp->offset >> 4) * 4;
	struct tcp_header answer = {
		.sport = tcp->dport,
		.dport = tcp->sport,
		.ack = bpf_htonl(bpf_ntohl(tcp->seq) + 1 + p->l4_bytes - header),
		.offset = TCP_BYTES / 4 << 4,
		.flags = TCP_RST | TCP_ACK,
	};

	if (header < TCP_BYTES || header > p->l4_bytes)
		return false;
	/* An ACK says what it expects: SEQ=SEG.ACK, and no ACK. */
	if (p->kind != KIND_NEW) {
		answer.seq = tcp->ack;
		answer.ack = 0;
		answer.flags = TCP_RST;
	}
	*tcp = answer;
	return true;
}

static __always_inline long turn_link(void *ctx, load_fn load, store_fn store)
{
	struct macs m, turned;

	if (load(ctx, 0, &m, sizeof(m)) || (m.to[0] | m.from[0]) & 1)
		return -1;
	__builtin_memcpy(turned.to, m.from, ETH_ALEN);
	__builtin_memcpy(turned.from, m.to, ETH_ALEN);
	return store(ctx, 0, &turned, sizeof(turned));
}

static __always_inline long write_ipv4(void *ctx, const struct packet *p, __u32 at, __u32 tcp_bytes,
				       store_fn store)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = sizeof(ip) / 4,
		.tot_len = bpf_htons(sizeof(ip) + tcp_bytes),
		.frag_off = bpf_htons(IPV4_DF),
		.ttl = RESET_TTL,
		.protocol = IPPROTO_TCP,
		.saddr = p->dst.word[0],
		.daddr = p->src.word[0],
	};

	ip.check = ~fold_sum(sum_words(&ip, sizeof(ip)));
	return store(ctx, at, &ip, sizeof(ip));
}

static __always_inline long write_ipv6(void *ctx, const struct packet *p, __u32 at, __u32 tcp_bytes,
				       store_fn store)
{
	struct ipv6hdr ip = {
		.version = 6,
		.payload_len = bpf_htons(tcp_bytes),
		.nexthdr = IPPROTO_TCP,
		.hop_limit = RESET_TTL,
	};

	__builtin_memcpy(&ip.saddr, p->dst.word, sizeof(ip.saddr));
	__builtin_memcpy(&ip.daddr, p->src.word, sizeof(ip.daddr));
	return store(ctx, at, &ip, sizeof(ip));
}

/* at: of the IP header. tcp: the whole TCP header of the answer. */
static __always_inline long write_answer(void *ctx, const struct packet *p, __u32 at,
					 const void *tcp, __u32 tcp_bytes, store_fn store)
{
	long err = p->src.family == 4 ? write_ipv4(ctx, p, at, tcp_bytes, store) :
					write_ipv6(ctx, p, at, tcp_bytes, store);

	return err ?: store(ctx, at + ip_bytes(p), tcp, tcp_bytes);
}

/* The packet becomes the answer with this TCP header, checksum and all. 0: it is to be dropped. */
static __always_inline int answer_with_xdp(struct xdp_md *ctx, const struct packet *p,
					   const void *tcp, __u32 tcp_bytes)
{
	__u32 length = p->l3_offset + ip_bytes(p) + tcp_bytes;

	if (p->l3_offset < ETH_HLEN || turn_link(ctx, load_xdp, store_xdp))
		return 0;
	if (bpf_xdp_adjust_tail(ctx, (int)(length - p->bytes)))
		return 0;
	return !write_answer(ctx, p, p->l3_offset, tcp, tcp_bytes, store_xdp);
}

/*
 * 1: the packet is the answer, to be sent by XDP_TX. 0: there is none, and the packet, which may have
 * been written to, is to be dropped. Wherever the headers lie: all is read and written by helper.
 *
 * A VLAN tag that the driver took off, or that a veth's sender left beside the packet, is not to be
 * seen by native XDP: its answer goes out without it. Whoever attaches must not ask for answers there.
 *
 * In generic mode an skb from this machine may still be CHECKSUM_PARTIAL, which XDP neither sees nor
 * ends. The peer of a veth takes it as it is; worst case, a device behind that peer fills the checksum
 * in once more and the client never takes the answer, as if the SYN had been dropped.
 */
__noinline int reset_xdp(struct xdp_md *ctx, const struct packet *p)
{
	struct tcp_header tcp;

	if (!p || !answerable(p))
		return 0;
	if (load_xdp(ctx, p->l4_offset, &tcp, sizeof(tcp)) || !turn_tcp(&tcp, p))
		return 0;
	tcp.check = ~fold_sum(pseudo_sum(p, TCP_BYTES) + sum_words(&tcp, sizeof(tcp)));
	if (p->l3_offset + ip_bytes(p) + TCP_BYTES > p->bytes)
		return 0;
	return answer_with_xdp(ctx, p, &tcp, TCP_BYTES);
}

/* Whether the network header begins so many bytes into the buffer: its last byte, and none behind. */
static __always_inline bool network_at(struct __sk_buff *ctx, __u32 front)
{
	__u8 byte;

	return ctx->len > front && !load_net(ctx, ctx->len - front - 1, &byte, 1) &&
	       load_net(ctx, ctx->len - front, &byte, 1);
}

/*
 * Where bytes are written, from where p counts: 0, or on a device without link headers behind what
 * the tunnel left there. xfrm and vti leave an Ethernet header, which the redirect takes off. Of what
 * is longer nothing is known (multipoint gre wants it back, with another address): -1.
 */
static __always_inline int written_from(struct __sk_buff *ctx)
{
	if (has_link_header)
		return 0;
	if (bpf_skb_pull_data(ctx, ctx->len))
		return -1;
	if (network_at(ctx, 0))
		return 0;
	return network_at(ctx, ETH_HLEN) ? ETH_HLEN : -1;
}

/*
 * Shortens the skb to the answer. Options and extension headers go from in front of the TCP header,
 * which stays where it is in memory: that is where CHECKSUM_PARTIAL will look for it. Where the
 * kernel cannot do that (behind an inline tag, or over 4095 bytes), it refuses to shorten what is
 * PARTIAL, and also else to less than where it knows the TCP header to be: no answer then.
 */
static __always_inline long cut_skb(struct __sk_buff *ctx, const struct packet *p, __u32 at,
				    __u32 tcp_bytes)
{
	__u32 more = p->l4_offset - p->l3_offset - ip_bytes(p);

	if (more)
		bpf_skb_adjust_room(ctx, -(int)more, BPF_ADJ_ROOM_NET, 0);
	return bpf_skb_change_tail(ctx, at + ip_bytes(p) + tcp_bytes, 0);
}

/*
 * Makes the stored checksum, 0xffff (a zero in ones' complement), what the skb wants of it: NONE the
 * whole, by two steps; PARTIAL the pseudo header alone, for it the first step does nothing; COMPLETE
 * the whole, and that its own sum follows, which the second step sees to and the first does not.
 */
static __always_inline long checksum_skb(struct __sk_buff *ctx, const struct packet *p, __u32 at,
					 __u16 sum, __u32 tcp_bytes)
{
	long err;

	at += ip_bytes(p) + offsetof(struct tcp_header, check);
	err = bpf_l4_csum_replace(ctx, at, 0, sum, 0);
	bpf_csum_update(ctx, (__u16)~sum); /* nothing to do for what is not COMPLETE */
	return err   ?:
		       bpf_l4_csum_replace(ctx, at, 0, fold_sum(pseudo_sum(p, tcp_bytes)),
					   BPF_F_PSEUDO_HDR);
}

/* As answer_with_xdp, of the TCP header with 0xffff as its checksum; sum: that of the header. -1: to be dropped. */
static __always_inline int answer_with_skb(struct __sk_buff *ctx, const struct packet *p, __u32 at,
					   const void *tcp, __u32 tcp_bytes, __u16 sum)
{
	if (has_link_header && turn_link(ctx, load_skb, store_skb))
		return -1;
	if (cut_skb(ctx, p, at, tcp_bytes) || write_answer(ctx, p, at, tcp, tcp_bytes, store_skb) ||
	    checksum_skb(ctx, p, at, sum, tcp_bytes))
		return -1;
	return 0;
}

/*
 * What the program is to return: TC_ACT_REDIRECT when the packet is the answer, to be sent by the
 * interface that it came by, with the VLAN tag that the kernel keeps beside it; else TC_ACT_SHOT.
 */
__noinline int reset_tc(struct __sk_buff *ctx, const struct packet *p)
{
	struct tcp_header tcp;
	int front;
	__u32 at;

	if (!p || !answerable(p))
		return TC_ACT_SHOT;
	if (has_link_header ? load_skb(ctx, p->l4_offset, &tcp, sizeof(tcp)) :
			      load_net(ctx, p->l4_offset, &tcp, sizeof(tcp)))
		return TC_ACT_SHOT;
	front = written_from(ctx);
	if (front < 0 || !turn_tcp(&tcp, p))
		return TC_ACT_SHOT;
	tcp.check = 0xffff;
	at = front + p->l3_offset;
	if (at + ip_bytes(p) + TCP_BYTES > ctx->len)
		return TC_ACT_SHOT;
	if (answer_with_skb(ctx, p, at, &tcp, TCP_BYTES, fold_sum(sum_words(&tcp, sizeof(tcp)))))
		return TC_ACT_SHOT;
	return bpf_redirect(ctx->ifindex, 0);
}
