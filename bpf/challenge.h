/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * A SYN, in place, into the SYN-ACK that the listener itself would have sent: with the kernel's own cookie, so that
 * the kernel makes a connection of the ACK, and no state is kept for who never sends one. It may read the listener
 * and write the packet; whether an answer is due is its caller's to say. An answer is larger than its SYN by the MSS
 * option at most.
 */

#include "challenge_find.h"
#include "challenge_syn.h"
#include "reset.h"

#define IPV4_DEFAULT_MSS 536
#define IPV6_DEFAULT_MSS 1220

/*
 * The SYN's header in c->syn. Its size, 0 if it is not all there. The room is compared with the options alone: Linux 6.12
 * loses the bounds of a number when a sum that it is part of is compared.
 */
static __always_inline __u32 load_syn(void *ctx, const struct packet *p, struct challenge *c,
				      load_fn load)
{
	struct tcp_header *tcp = (struct tcp_header *)c->syn;
	__u32 options, room = p->l4_bytes - TCP_BYTES;

	if (p->l4_bytes < TCP_BYTES || load(ctx, p->l4_offset, c->syn, TCP_BYTES))
		return 0;
	options = (tcp->offset >> 4) * 4 - TCP_BYTES;
	KEEP(options);
	/* In this order: Linux 7 learns no least of a number that may be negative, 6.1 none of != 0. */
	if (options > CHALLENGE_SYN_BYTES - TCP_BYTES)
		return 0;
	if (options < 4)
		return TCP_BYTES;
	if (options > room)
		return 0;
	if (load(ctx, p->l4_offset + TCP_BYTES, c->syn + TCP_BYTES, options))
		return 0;
	return TCP_BYTES + options;
}

/* The kernel's cookie for c->syn, MSS in the upper half; negative: none. */
static __always_inline __s64 make_cookie(const struct packet *p, struct challenge *c, __u32 size)
{
	if (p->src.family == 4) {
		struct iphdr ip = { .saddr = p->src.word[0], .daddr = p->dst.word[0] };

		return bpf_tcp_raw_gen_syncookie_ipv4(&ip, (void *)c->syn, size);
	} else {
		struct ipv6hdr ip = {};

		__builtin_memcpy(&ip.saddr, p->src.word, sizeof(ip.saddr));
		__builtin_memcpy(&ip.daddr, p->dst.word, sizeof(ip.daddr));
		return bpf_tcp_raw_gen_syncookie_ipv6(&ip, (void *)c->syn, size);
	}
}

/* The largest segment that this interface takes. The route's own MTU is not asked: it may only be smaller where
 * path MTU discovery tells the client. */
static __always_inline __u16 own_mss(void *ctx, const struct packet *p)
{
	__u32 headers = ip_bytes(p) + TCP_BYTES, mtu = 0;
	__u32 least = p->src.family == 4 ? IPV4_DEFAULT_MSS : IPV6_DEFAULT_MSS;

	if (bpf_check_mtu(ctx, 0, &mtu, 0, 0) < 0 || mtu < headers + least)
		return least;
	return mtu - headers > 65535 ? 65535 : mtu - headers;
}

/*
 * The answer in c->answer, its options behind the header. Its size; 0: none. Options but the MSS travel in the
 * timestamp, and only where the kernel reads it back; without, it takes the connection for one without any.
 */
__noinline int make_answer(const struct packet *p, struct challenge *c, __u32 size)
{
	struct option_walk walk = { .at = TCP_BYTES, .end = size };
	struct option_loop loop = { .c = c };
	__u32 options = 4;
	__s64 cookie;

	if (!CHALLENGES || !p || !c || size < TCP_BYTES)
		return 0;
	KEEP(size); /* two bounds of one register, or the verifier of 6.1 does not see them */
	if (size > CHALLENGE_SYN_BYTES)
		return 0;
	cookie = make_cookie(p, c, size);
	if (cookie < 0)
		return 0;
	__builtin_memset(&c->answer, 0, sizeof(c->answer));
	c->answer.options[0] = bpf_htonl(OPTION_MSS << 24 | 4 << 16 | c->mss);
	if (c->promise.options) {
		c->walk = walk;
		bpf_loop(CHALLENGE_SYN_BYTES - TCP_BYTES, option_step, &loop, 0);
		if (c->walk.has_timestamps)
			options = write_options(c->answer.options, &c->walk, &c->promise);
	}
	c->answer.sport = bpf_htons(p->dport);
	c->answer.dport = bpf_htons(p->sport);
	c->answer.seq = bpf_htonl((__u32)cookie);
	c->answer.ack = bpf_htonl(bpf_ntohl(((struct tcp_header *)c->syn)->seq) + 1);
	c->answer.offset = (TCP_BYTES + options) / 4 << 4;
	c->answer.flags = TCP_SYN | TCP_ACK;
	c->answer.window = bpf_htons(c->promise.window);
	return TCP_BYTES + options;
}

/* The SYN's header and our MSS into c. The header's size; 0: no answer. */
__noinline int read_syn_xdp(struct xdp_md *ctx, const struct packet *p, struct challenge *c)
{
	if (!CHALLENGES || !p || !c || !answerable(p))
		return 0;
	c->mss = own_mss(ctx, p);
	return load_syn(ctx, p, c, load_xdp);
}

__noinline int read_syn_skb(struct __sk_buff *ctx, const struct packet *p, struct challenge *c)
{
	if (!CHALLENGES || !p || !c || !answerable(p))
		return 0;
	c->mss = own_mss(ctx, p);
	return has_link_header ? load_syn(ctx, p, c, load_skb) : load_syn(ctx, p, c, load_net);
}

/*
 * bytes: of make_answer. 1: the packet is the answer, to be sent by XDP_TX. 0: it is to be dropped. As reset_xdp.
 */
__noinline int challenge_xdp(struct xdp_md *ctx, const struct packet *p, struct challenge *c,
			     __u32 bytes)
{
	if (!CHALLENGES || !p || !c || bytes < TCP_BYTES)
		return 0;
	KEEP(bytes); /* as in make_answer */
	if (bytes > sizeof(c->answer))
		return 0;
	c->answer.check =
		~fold_sum(pseudo_sum(p, bytes) + sum_words(&c->answer, sizeof(c->answer)));
	return answer_with_xdp(ctx, p, &c->answer, bytes);
}

/* The same, to be sent by a redirect to its interface. As reset_tc. */
__noinline int challenge_skb(struct __sk_buff *ctx, const struct packet *p, struct challenge *c,
			     __u32 bytes)
{
	int front;

	if (!CHALLENGES || !p || !c || bytes < TCP_BYTES)
		return 0;
	KEEP(bytes);
	if (bytes > sizeof(c->answer))
		return 0;
	front = written_from(ctx);
	if (front < 0)
		return 0;
	c->answer.check = 0xffff;
	return !answer_with_skb(ctx, p, front + p->l3_offset, &c->answer, bytes,
				fold_sum(sum_words(&c->answer, sizeof(c->answer))));
}
