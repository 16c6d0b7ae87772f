/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Bytes to struct packet: link header, up to two VLAN tags, IPv4 with options, IPv6, TCP and UDP.
 * Reads the packet directly and refuses what cannot be judged honestly. IPv6 extension headers are
 * left to chain.h. Decides nothing that depends on a policy.
 */

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>

#include "packet.h"

#define ETH_P_SELF_TEST 0x88b5 /* IEEE 802 local experimental ethertype 1 */
#define VLAN_VID 0x0fff
#define IPV4_MORE 0x2000
#define IPV4_OFFSET 0x1fff

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct vlan_header {
	__be16 tci;
	__be16 proto;
};

struct tcp_header {
	__be16 sport;
	__be16 dport;
	__be32 seq;
	__be32 ack;
	__u8 offset; /* high four bits: header length in 32-bit words */
	__u8 flags;
	__be16 window;
	__be16 check;
	__be16 urgent;
};

struct cursor {
	void *start;
	void *pos;
	void *end;
};

static __always_inline void *take(struct cursor *c, __u32 size)
{
	void *here = c->pos;

	if (here + size > c->end)
		return NULL;
	c->pos = here + size;
	return here;
}

static __always_inline bool is_vlan(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

/*
 * Deeper tags than two pass to the kernel, which drops them, unless one of them has VLAN id 0: those
 * are priority tags, and the kernel strips any number of them and takes what is below.
 */
static __always_inline int parse_link(struct cursor *c, __be16 *proto)
{
	struct ethhdr *eth = take(c, sizeof(*eth));
	bool priority = false;

	if (!eth)
		return REASON_UNPARSED;
	*proto = eth->h_proto;
#pragma unroll
	for (int i = 0; i < 3; i++) {
		struct vlan_header *tag;

		if (!is_vlan(*proto))
			return REASON_NONE;
		tag = take(c, sizeof(*tag));
		if (!tag)
			return REASON_UNPARSED;
		priority |= !(tag->tci & bpf_htons(VLAN_VID));
		if (i == 2)
			return priority ? REFUSE(REASON_MALFORMED) : REASON_UNPARSED;
		*proto = tag->proto;
	}
	return REASON_NONE;
}

/* first: the header lies in the first fragment of a packet, where flags must not be cut off. */
static __always_inline int parse_tcp(const struct tcp_header *tcp, struct packet *p, bool first)
{
	__u32 length;

	if (p->l4_bytes < sizeof(*tcp))
		return first ? REFUSE(REASON_FRAGMENT) : REASON_UNPARSED;
	length = (tcp->offset >> 4) * 4;
	if (length < sizeof(*tcp) || (!first && length > p->l4_bytes))
		return REASON_UNPARSED;
	p->sport = bpf_ntohs(tcp->sport);
	p->dport = bpf_ntohs(tcp->dport);
	p->kind = KIND_ESTABLISHED;
	if (!(tcp->flags & TCP_SYN))
		return REASON_NONE;
	if (tcp->flags & (TCP_FIN | TCP_RST))
		return REFUSE(REASON_MALFORMED);
	if (!(tcp->flags & TCP_ACK))
		p->kind = KIND_NEW;
	return REASON_NONE;
}

static __always_inline int parse_l4(struct cursor *c, struct packet *p, bool first)
{
	struct tcp_header *tcp;

	p->l4_offset = c->pos - c->start;
	p->kind = KIND_OTHER;
	if (p->proto != IPPROTO_TCP)
		return REASON_NONE;
	tcp = take(c, sizeof(*tcp));
	if (!tcp)
		return first ? REFUSE(REASON_FRAGMENT) : REASON_UNPARSED;
	return parse_tcp(tcp, p, first);
}

/* A buffer that GRO or GSO made longer than 64 KiB says 0 for its length (BIG TCP). */
static __always_inline __u32 ip_length(__u32 length, const struct packet *p)
{
	if (!length && p->segments > 1)
		return p->bytes - p->l3_offset;
	return length;
}

/* RFC 1858 and RFC 3128: a fragment at offset 8 may write over the flags of the first. */
static __always_inline int later_fragment(struct packet *p, __u32 offset)
{
	p->kind = KIND_FRAGMENT;
	if (p->proto == IPPROTO_TCP && offset == 8)
		return REFUSE(REASON_FRAGMENT);
	return REASON_NONE;
}

static __always_inline int parse_ipv4(struct cursor *c, struct packet *p)
{
	struct iphdr *ip = take(c, sizeof(*ip));
	__u32 header, total, fragment;

	if (!ip)
		return REASON_UNPARSED;
	header = ip->ihl * 4;
	total = ip_length(bpf_ntohs(ip->tot_len), p);
	if (ip->version != 4 || header < sizeof(*ip) || total < header ||
	    total > p->bytes - p->l3_offset)
		return REASON_UNPARSED;
	p->src.family = p->dst.family = 4;
	p->src.word[0] = ip->saddr;
	p->dst.word[0] = ip->daddr;
	p->proto = ip->protocol;
	p->l4_bytes = total - header;
	fragment = bpf_ntohs(ip->frag_off);
	if (!take(c, (header - sizeof(*ip)) & 0x3f))
		return REASON_UNPARSED;
	if (fragment & IPV4_OFFSET)
		return later_fragment(p, (fragment & IPV4_OFFSET) * 8);
	return parse_l4(c, p, fragment & IPV4_MORE);
}

static __always_inline bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_DSTOPTS || next == IPPROTO_AH || next == IPPROTO_MH;
}

static __always_inline void copy_ipv6(struct addr *to, const struct in6_addr *from)
{
	const __u32 *word = (const __u32 *)from;

	to->family = 6;
	to->word[0] = word[0];
	to->word[1] = word[1];
	to->word[2] = word[2];
	to->word[3] = word[3];
}

static __always_inline int parse_ipv6(struct cursor *c, struct packet *p)
{
	struct ipv6hdr *ip = take(c, sizeof(*ip));

	if (!ip || ip->version != 6)
		return REASON_UNPARSED;
	copy_ipv6(&p->src, &ip->saddr);
	copy_ipv6(&p->dst, &ip->daddr);
	p->proto = ip->nexthdr;
	p->l4_bytes = bpf_ntohs(ip->payload_len);
	p->l4_offset = c->pos - c->start;
	if (!p->l4_bytes && p->segments > 1)
		p->l4_bytes = p->bytes - p->l4_offset;
	if (p->l4_bytes > p->bytes - p->l4_offset)
		return REASON_UNPARSED;
	if (is_extension(p->proto)) {
		p->kind = KIND_CHAIN;
		return REASON_NONE;
	}
	return parse_l4(c, p, false);
}

static __always_inline int parse_network(struct cursor *c, struct packet *p, __be16 proto)
{
	p->l3_offset = c->pos - c->start;
	if (proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(c, p);
	if (proto == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(c, p);
	return proto == bpf_htons(ETH_P_SELF_TEST) ? REASON_SELF_TEST : REASON_NOT_IP;
}
