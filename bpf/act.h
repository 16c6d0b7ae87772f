/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What was decided, done: the answer where one is to be sent, then the action in the words of the hook.
 * The only place that knows them.
 */

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "account.h"
#include "challenge_act.h"
#include "many.h"
#include "probe_act.h"
#include "reset.h"

/* Worst case: a source that is over its own has cost the others nothing. SYNs use up nothing of what proof is told by. */
__noinline int may_answer(struct packet *p)
{
	bool asks;

	if (!p)
		return 0;
	asks = p->kind == KIND_NEW;
	return charge_answer(p, asks ? ANSWERS_TO_SOURCE : REFUSED_TO_SOURCE,
			     asks ? ANSWERS_IN_TOTAL : REFUSED_IN_TOTAL, bpf_ktime_get_ns());
}

/* What could not be answered was dropped, and is counted as that. */
static __always_inline __u32 not_answered(__u32 verdict)
{
	return with_another(verdict, ACTION_DROP);
}

static __always_inline bool wants_answer(__u32 verdict)
{
	return features & FEATURE_RESET && VERDICT_ACTION(verdict) == ACTION_RESET;
}

/*
 * The SYN of a connection or a request that is there is no new one: sent again, it must not end what it began. Behind
 * one that has ended here it is.
 */
static __always_inline bool is_known(int state)
{
	return state && state != BPF_TCP_LISTEN && state != BPF_TCP_TIME_WAIT;
}

static __always_inline int act_xdp(struct xdp_md *ctx, struct counts *mine, struct packet *p,
				   __u32 verdict)
{
	int probe;

	if (wants_challenge(verdict)) {
		verdict = challenged_xdp(ctx, p, verdict);
		count_packet(mine, p, verdict);
		return verdict_xdp(verdict);
	}
	if (wants_probe(mine, p, verdict)) {
		probe = probe_xdp(ctx, p, VERDICT_LIMIT(verdict) - 1);
		if (probe != PROBE_NONE) {
			count_packet(mine, p, probed(verdict, probe));
			return probe == PROBE_SENT ? XDP_TX : XDP_DROP;
		}
	}
	if (wants_answer(verdict)) {
		if (may_send && answerable(p) && may_answer(p) &&
		    !(p->kind == KIND_NEW && is_known(socket_state_xdp(ctx, p))) &&
		    reset_xdp(ctx, p)) {
			count_packet(mine, p, verdict);
			return XDP_TX;
		}
		verdict = not_answered(verdict);
	}
	count_packet(mine, p, verdict);
	return VERDICT_ACTION(verdict) == ACTION_DROP ? XDP_DROP : XDP_PASS;
}

/* UNSPEC and not OK: programs and filters behind ours still have their say. */
static __always_inline int act_tc(struct __sk_buff *ctx, struct counts *mine, struct packet *p,
				  __u32 verdict)
{
	int sent, probe;

	if (wants_challenge(verdict)) {
		verdict = challenged_tc(ctx, p, verdict);
		count_packet(mine, p, verdict);
		return verdict_tc(ctx, verdict);
	}
	if (wants_probe(mine, p, verdict)) {
		probe = probe_tc(ctx, p, VERDICT_LIMIT(verdict) - 1);
		if (probe != PROBE_NONE) {
			count_packet(mine, p, probed(verdict, probe));
			return probe == PROBE_SENT ? bpf_redirect(ctx->ifindex, 0) : TC_ACT_SHOT;
		}
	}
	if (wants_answer(verdict)) {
		sent = TC_ACT_SHOT;
		if (may_send && answerable(p) && may_answer(p) &&
		    !(p->kind == KIND_NEW && is_known(socket_state_skb(ctx, p))))
			sent = reset_tc(ctx, p);
		if (sent == TC_ACT_REDIRECT) {
			count_packet(mine, p, verdict);
			return sent;
		}
		verdict = not_answered(verdict);
	}
	count_packet(mine, p, verdict);
	return VERDICT_ACTION(verdict) == ACTION_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}
