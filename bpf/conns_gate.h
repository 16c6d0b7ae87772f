/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The gate: an ACK without SYN at a listener, or at a socket of Fast Open that waits for it, must reserve a place
 * under every limit, else it is dropped. The client then believes that it is connected, and sends again; the
 * request stays half open until its timer, and gets a place if one is freed before.
 */

#include "conns_note.h"

#define GATE_PASS 1
#define GATE_DROP 0

#define TCP_FLAGS_OFFSET 13

/* REASON_NONE, with p filled in, for an ACK that may end a handshake. */
__noinline int gate_parse(struct __sk_buff *ctx, struct packet *p)
{
	__u8 flags = 0;
	int verdict;

	if (!p)
		return REASON_UNPARSED;
	verdict = reread_network(ctx, p, ctx->protocol, load_net);
	if (!verdict && p->kind == KIND_CHAIN)
		verdict = walk_chain_skb(ctx, p);
	if (verdict)
		return verdict;
	if (p->kind != KIND_ESTABLISHED || p->proto != IPPROTO_TCP)
		return REASON_NO_SERVICE;
	if (load_net(ctx, p->l4_offset + TCP_FLAGS_OFFSET, &flags, sizeof(flags)))
		return REASON_UNPARSED;
	if ((flags & (TCP_SYN | TCP_RST | TCP_ACK)) != TCP_ACK)
		return REASON_ESTABLISHED;
	p->kind = KIND_NEW;
	return REASON_NONE;
}

/* The SYN of p waits no more: it is among the reserved now. */
__noinline int pending_settle(const struct packet *p, struct conn_note *note, __u64 now)
{
	__u64 *where = NULL, slot, then;

	if (!p || !note)
		return 0;
	slot = pending_find(p, now, true, &where);
	if (!slot || !where || !pending_waits(slot, now) ||
	    __sync_val_compare_and_swap(where, slot, slot & ~PENDING_WAITS) != slot)
		return 0;
	then = now - (pending_age(slot, now) << PENDING_TIME_SHIFT);
	for (__u32 i = 0; i < CONN_CLAIMS; i++) {
		struct conn_claim *c = claim_at(note, i);

		if (i >= note->count)
			break;
		if (c->key.limit >= SERVICE_IDS)
			waiting_take(conn_key_hash(&c->key), then, now);
	}
	return 0;
}

static __always_inline int gate_judge(struct __sk_buff *ctx, struct conn_note *note)
{
	struct packet p = { .segments = 1, .bytes = ctx->len };
	__u64 now = coarse_ns();
	__u32 slot;

	if (gate_parse(ctx, &p))
		return GATE_PASS;
	slot = active_slot();
	claims_of(note, &p, slot, now);
	if (!claims_reserve(note, &p, slot))
		return GATE_DROP;
	note_write(note, &p);
	if (note->count)
		pending_settle(&p, note, now);
	return GATE_PASS;
}
