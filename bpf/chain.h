/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The IPv6 extension headers of a packet, walked one by one from p->l4_offset to the header that a
 * service is known by. Reads by helper, so that a chain may lie anywhere in the buffer. A chain that
 * is too long, or that a first fragment cuts, is refused: the kernel would put it together and answer.
 */

#include "parse.h"

#define MAX_EXTENSION_HEADERS 8

struct extension {
	__u8 next;
	__u8 length;
	__be16 fragment; /* only in a fragment header */
	__be32 id;
};

struct walk {
	void *ctx;
	__u32 offset;
	__u32 end;
	__u32 fragment_offset;
	int reason;
	__u8 next;
	bool first; /* this is a first fragment */
	bool later; /* this is a later one */
};

typedef long (*load_fn)(void *ctx, __u32 offset, void *to, __u32 size);

static __always_inline long load_xdp(void *ctx, __u32 offset, void *to, __u32 size)
{
	return bpf_xdp_load_bytes(ctx, offset, to, size);
}

static __always_inline long load_skb(void *ctx, __u32 offset, void *to, __u32 size)
{
	return bpf_skb_load_bytes(ctx, offset, to, size);
}

/* A header that is missing is the sender's cut in a first fragment, and a broken packet elsewhere. */
static __always_inline int cut_off(const struct walk *w)
{
	return w->first ? REFUSE(REASON_MALFORMED) : REASON_UNPARSED;
}

static __always_inline __u32 extension_bytes(const struct extension *h, __u8 type)
{
	if (type == IPPROTO_FRAGMENT)
		return 8;
	if (type == IPPROTO_AH)
		return (h->length + 2) * 4;
	return (h->length + 1) * 8;
}

static __always_inline void note_fragment(struct walk *w, const struct extension *h)
{
	__u16 fragment = bpf_ntohs(h->fragment);

	w->fragment_offset = fragment & 0xfff8;
	w->later = w->fragment_offset != 0;
	w->first |= !w->later && (fragment & 1);
}

/* Returns 1 when the walk is at its end, with w->reason set if that end is a verdict. */
static __always_inline long walk_step(__u32 index, struct walk *w, load_fn load)
{
	struct extension h;
	__u8 type = w->next;

	if (!is_extension(type))
		return 1;
	if (index == MAX_EXTENSION_HEADERS) {
		w->reason = REFUSE(REASON_MALFORMED);
		return 1;
	}
	if (w->offset + sizeof(h) > w->end || load(w->ctx, w->offset, &h, sizeof(h))) {
		w->reason = cut_off(w);
		return 1;
	}
	w->next = h.next;
	w->offset += extension_bytes(&h, type);
	if (type != IPPROTO_FRAGMENT)
		return 0;
	note_fragment(w, &h);
	return w->later;
}

static long walk_step_xdp(__u32 index, void *w)
{
	return walk_step(index, w, load_xdp);
}

static long walk_step_skb(__u32 index, void *w)
{
	return walk_step(index, w, load_skb);
}

static __always_inline int walk_finish(struct walk *w, struct packet *p, load_fn load)
{
	struct tcp_header tcp;

	p->kind = KIND_OTHER;
	p->proto = w->next;
	if (w->reason)
		return w->reason;
	if (w->later)
		return later_fragment(p, w->fragment_offset);
	if (w->offset > w->end)
		return cut_off(w);
	p->l4_offset = w->offset;
	p->l4_bytes = w->end - w->offset;
	if (p->proto != IPPROTO_TCP)
		return REASON_NONE;
	if (load(w->ctx, w->offset, &tcp, sizeof(tcp)))
		return w->first ? REFUSE(REASON_FRAGMENT) : REASON_UNPARSED;
	return parse_tcp(&tcp, p, w->first);
}

#define WALK_FROM(ctx_, p_)                                                                        \
	{                                                                                          \
		.ctx = (ctx_), .offset = (p_)->l4_offset, .end = (p_)->l4_offset + (p_)->l4_bytes, \
		.next = (p_)->proto                                                                \
	}

__noinline int walk_chain_xdp(struct xdp_md *ctx, struct packet *p)
{
	if (!p)
		return REASON_UNPARSED;

	struct walk w = WALK_FROM(ctx, p);

	bpf_loop(MAX_EXTENSION_HEADERS + 1, walk_step_xdp, &w, 0);
	return walk_finish(&w, p, load_xdp);
}

__noinline int walk_chain_skb(struct __sk_buff *ctx, struct packet *p)
{
	if (!p)
		return REASON_UNPARSED;

	struct walk w = WALK_FROM(ctx, p);

	bpf_loop(MAX_EXTENSION_HEADERS + 1, walk_step_skb, &w, 0);
	return walk_finish(&w, p, load_skb);
}
