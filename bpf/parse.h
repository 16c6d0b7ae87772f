/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Bytes to struct packet: link header, up to two VLAN tags, IPv4 with options, IPv6, TCP. Reads the
 * packet directly; what does not lie in the first buffer, and IPv6 extension headers, are left to
 * reread.h and chain.h. Refuses what cannot be judged honestly. Decides nothing that depends on a
 * policy.
 */

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>

#include "frozen.h"
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

struct udp_header {
	__be16 sport;
	__be16 dport;
	__be16 length;
	__be16 check;
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

/* Whether a third tag is refused: the kernel strips any number of priority tags (VLAN id 0). */
static __always_inline int third_tag(bool priority)
{
	return priority ? REFUSE(REASON_MALFORMED) : REASON_UNPARSED;
}

static __always_inline bool is_priority(const struct vlan_header *tag)
{
	return !(tag->tci & bpf_htons(VLAN_VID));
}

/* Deeper tags than two belong to VLAN devices on VLAN devices: there is where they are judged. */
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
		priority |= is_priority(tag);
		if (i == 2)
			return third_tag(priority);
		*proto = tag->proto;
	}
	return REASON_NONE;
}

/* A first fragment may not cut the flags off, and what follows it may not write over them. */
static __always_inline int parse_tcp(const struct tcp_header *tcp, struct packet *p)
{
	__u32 length = (tcp->offset >> 4) * 4;

	if (length < sizeof(*tcp) || (!p->first_fragment && length > p->l4_bytes))
		return REASON_UNPARSED;
	p->sport = bpf_ntohs(tcp->sport);
	p->dport = bpf_ntohs(tcp->dport);
	p->kind = KIND_ESTABLISHED;
	if (features & (FEATURE_PROVEN | FEATURE_PROBE))
		p->tcp_flags = tcp->flags;
	if (!(tcp->flags & TCP_SYN))
		return REASON_NONE;
	if (tcp->flags & (TCP_FIN | TCP_RST))
		return REFUSE(REASON_MALFORMED);
	if (!(tcp->flags & TCP_ACK))
		p->kind = KIND_NEW;
	return REASON_NONE;
}

/* A TCP header that is not all there. */
static __always_inline int short_tcp(const struct packet *p)
{
	return p->first_fragment ? REFUSE(REASON_FRAGMENT) : REASON_UNPARSED;
}

static __always_inline bool wants_tcp(const struct packet *p)
{
	return p->kind == KIND_OTHER && p->proto == IPPROTO_TCP;
}

static __always_inline bool wants_udp(const struct packet *p)
{
	return features & FEATURE_UDP && p->kind == KIND_OTHER && p->proto == IPPROTO_UDP;
}

static __always_inline int parse_udp(const struct udp_header *udp, struct packet *p)
{
	p->sport = bpf_ntohs(udp->sport);
	p->dport = bpf_ntohs(udp->dport);
	p->udp_bytes = bpf_ntohs(udp->length);
	p->kind = KIND_DATAGRAM;
	return REASON_NONE;
}

/*
 * Length 0 means the rest of the buffer, as the kernel takes it where GRO has made more than 64 KiB
 * (BIG TCP) and behind an IPv6 hop-by-hop header without a jumbo option.
 */
static __always_inline __u32 ip_length(__be16 length, __u32 rest)
{
	return bpf_ntohs(length) ?: rest;
}

/* RFC 1858 and RFC 3128: a fragment at offset 8 may write over the flags of the first. */
static __always_inline int later_fragment(struct packet *p, __u32 offset)
{
	p->kind = KIND_FRAGMENT;
	if (p->proto == IPPROTO_TCP && offset == 8)
		return REFUSE(REASON_FRAGMENT);
	return REASON_NONE;
}

/* p->l3_offset is set; sets all that an IPv4 header tells. */
static __always_inline int ipv4_header(const struct iphdr *ip, struct packet *p)
{
	__u32 header = ip->ihl * 4, rest = p->bytes - p->l3_offset;
	__u32 total = ip_length(ip->tot_len, rest);
	__u32 fragment = bpf_ntohs(ip->frag_off);

	if (ip->version != 4 || header < sizeof(*ip) || total < header || total > rest)
		return REASON_UNPARSED;
	p->src.family = p->dst.family = 4;
	p->src.word[0] = ip->saddr;
	p->dst.word[0] = ip->daddr;
	p->proto = ip->protocol;
	p->l4_offset = p->l3_offset + header;
	p->l4_bytes = total - header;
	p->kind = KIND_OTHER;
	if (fragment & IPV4_OFFSET)
		return later_fragment(p, (fragment & IPV4_OFFSET) * 8);
	p->first_fragment = !!(fragment & IPV4_MORE);
	return REASON_NONE;
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

/* p->l3_offset is set; sets all that an IPv6 header tells. */
static __always_inline int ipv6_header(const struct ipv6hdr *ip, struct packet *p)
{
	__u32 rest;

	p->l4_offset = p->l3_offset + sizeof(*ip);
	rest = p->bytes - p->l4_offset;
	p->l4_bytes = ip_length(ip->payload_len, rest);
	if (ip->version != 6 || p->l4_bytes > rest)
		return REASON_UNPARSED;
	copy_ipv6(&p->src, &ip->saddr);
	copy_ipv6(&p->dst, &ip->daddr);
	p->proto = ip->nexthdr;
	p->kind = is_extension(p->proto) ? KIND_CHAIN : KIND_OTHER;
	return REASON_NONE;
}

static __always_inline int parse_datagram(struct cursor *c, struct packet *p)
{
	struct udp_header *udp;

	if (!wants_udp(p))
		return REASON_NONE;
	if (p->l4_bytes < sizeof(*udp))
		return REASON_UNPARSED;
	udp = take(c, sizeof(*udp));
	return udp ? parse_udp(udp, p) : REASON_UNPARSED;
}

static __always_inline int parse_l4(struct cursor *c, struct packet *p)
{
	struct tcp_header *tcp;

	if (!wants_tcp(p))
		return parse_datagram(c, p);
	if (p->l4_bytes < sizeof(*tcp))
		return short_tcp(p);
	tcp = take(c, sizeof(*tcp));
	return tcp ? parse_tcp(tcp, p) : REASON_UNPARSED;
}

static __always_inline int parse_ipv4(struct cursor *c, struct packet *p)
{
	struct iphdr *ip = take(c, sizeof(*ip));
	int verdict;

	if (!ip)
		return REASON_UNPARSED;
	verdict = ipv4_header(ip, p);
	if (verdict)
		return verdict;
	if (!take(c, (p->l4_offset - p->l3_offset - sizeof(*ip)) & 0x3f))
		return REASON_UNPARSED;
	return parse_l4(c, p);
}

static __always_inline int parse_ipv6(struct cursor *c, struct packet *p)
{
	struct ipv6hdr *ip = take(c, sizeof(*ip));
	int verdict;

	if (!ip)
		return REASON_UNPARSED;
	verdict = ipv6_header(ip, p);
	return verdict ?: parse_l4(c, p);
}

static __always_inline int other_network(__be16 proto)
{
	return proto == bpf_htons(ETH_P_SELF_TEST) ? REASON_SELF_TEST : REASON_NOT_IP;
}

static __always_inline int parse_network(struct cursor *c, struct packet *p, __be16 proto)
{
	p->l3_offset = c->pos - c->start;
	if (proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(c, p);
	if (proto == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(c, p);
	return other_network(proto);
}

/* The whole stage on what lies in the first buffer. */
static __always_inline int parse_direct(long start, long end, struct packet *p)
{
	struct cursor c = { (void *)start, (void *)start, (void *)end };
	__be16 proto;
	int verdict = parse_link(&c, &proto);

	return verdict ?: parse_network(&c, p, proto);
}
