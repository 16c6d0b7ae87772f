/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The IPv6 extension headers of a packet, walked one by one from p->l4_offset to the header that a
 * service is known by. Reads by helper, so that a chain may lie anywhere in the buffer. A chain that
 * is too long, or that a first fragment cuts, is refused: the kernel would put it together and answer.
 */

#include "reread.h"

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

static long walk_step_net(__u32 index, void *w)
{
	return walk_step(index, w, load_net);
}

static __always_inline int walk_finish(struct walk *w, struct packet *p, load_fn load)
{
	p->kind = KIND_OTHER;
	p->proto = w->next;
	p->first_fragment = w->first;
	if (w->reason)
		return w->reason;
	if (w->later)
		return later_fragment(p, w->fragment_offset);
	if (w->offset > w->end)
		return cut_off(w);
	p->l4_offset = w->offset;
	p->l4_bytes = w->end - w->offset;
	return reread_l4(w->ctx, p, load);
}

static __always_inline struct walk walk_from(void *ctx, const struct packet *p)
{
	struct walk w = {
		.ctx = ctx,
		.offset = p->l4_offset,
		.end = p->l4_offset + p->l4_bytes,
		.next = p->proto,
	};

	return w;
}

__noinline int walk_chain_xdp(struct xdp_md *ctx, struct packet *p)
{
	struct walk w;

	if (!p)
		return REASON_UNPARSED;
	w = walk_from(ctx, p);
	bpf_loop(MAX_EXTENSION_HEADERS + 1, walk_step_xdp, &w, 0);
	return walk_finish(&w, p, load_xdp);
}

__noinline int walk_chain_skb(struct __sk_buff *ctx, struct packet *p)
{
	struct walk w;

	if (!p)
		return REASON_UNPARSED;
	w = walk_from(ctx, p);
	if (has_link_header) {
		bpf_loop(MAX_EXTENSION_HEADERS + 1, walk_step_skb, &w, 0);
		return walk_finish(&w, p, load_skb);
	}
	bpf_loop(MAX_EXTENSION_HEADERS + 1, walk_step_net, &w, 0);
	return walk_finish(&w, p, load_net);
}
