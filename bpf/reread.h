/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The parse stage again, by helper calls: for packets whose headers do not all lie in the first
 * buffer, and for interfaces without a link header, where only the kernel knows at which byte the IP
 * header begins. Slower, and the same verdicts.
 */

#include "parse.h"

typedef long (*load_fn)(void *ctx, __u32 offset, void *to, __u32 size);

static __always_inline long load_xdp(void *ctx, __u32 offset, void *to, __u32 size)
{
	return bpf_xdp_load_bytes(ctx, offset, to, size);
}

static __always_inline long load_skb(void *ctx, __u32 offset, void *to, __u32 size)
{
	return bpf_skb_load_bytes(ctx, offset, to, size);
}

/* From the IP header on: xfrm, vti and multipoint gre keep another header in front of it. */
static __always_inline long load_net(void *ctx, __u32 offset, void *to, __u32 size)
{
	return bpf_skb_load_bytes_relative(ctx, offset, to, size, BPF_HDR_START_NET);
}

static __always_inline int reread_link(void *ctx, __u32 *offset, __be16 *proto, load_fn load)
{
	bool priority = false;
	struct ethhdr eth;

	if (load(ctx, 0, &eth, sizeof(eth)))
		return REASON_UNPARSED;
	*offset = sizeof(eth);
	*proto = eth.h_proto;
	for (int i = 0; i < 3; i++) {
		struct vlan_header tag;

		if (!is_vlan(*proto))
			return REASON_NONE;
		if (load(ctx, *offset, &tag, sizeof(tag)))
			return REASON_UNPARSED;
		priority |= is_priority(&tag);
		if (i == 2)
			return third_tag(priority);
		*offset += sizeof(tag);
		*proto = tag.proto;
	}
	return REASON_NONE;
}

static __always_inline int reread_udp(void *ctx, struct packet *p, load_fn load)
{
	struct udp_header udp;

	if (!wants_udp(p))
		return REASON_NONE;
	if (p->l4_bytes < sizeof(udp) || load(ctx, p->l4_offset, &udp, sizeof(udp)))
		return REASON_UNPARSED;
	return parse_udp(&udp, p);
}

static __always_inline int reread_l4(void *ctx, struct packet *p, load_fn load)
{
	struct tcp_header tcp;

	if (!wants_tcp(p))
		return reread_udp(ctx, p, load);
	if (p->l4_bytes < sizeof(tcp))
		return short_tcp(p);
	if (load(ctx, p->l4_offset, &tcp, sizeof(tcp)))
		return REASON_UNPARSED;
	return parse_tcp(&tcp, p);
}

static __always_inline int reread_network(void *ctx, struct packet *p, __be16 proto, load_fn load)
{
	struct ipv6hdr ip6;
	struct iphdr ip;
	int verdict;

	if (proto == bpf_htons(ETH_P_IP)) {
		if (load(ctx, p->l3_offset, &ip, sizeof(ip)))
			return REASON_UNPARSED;
		verdict = ipv4_header(&ip, p);
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		if (load(ctx, p->l3_offset, &ip6, sizeof(ip6)))
			return REASON_UNPARSED;
		verdict = ipv6_header(&ip6, p);
	} else {
		return other_network(proto);
	}
	return verdict ?: reread_l4(ctx, p, load);
}

static __always_inline int reread(void *ctx, struct packet *p, load_fn load)
{
	__be16 proto;
	int verdict = reread_link(ctx, &p->l3_offset, &proto, load);

	return verdict ?: reread_network(ctx, p, proto, load);
}
