/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Which SYNs over a limit that bans are probed, and the answer: those that the ledger samples, within budgets of their
 * source and of all, to somebody who listens, and of no connection or request that is there. Whatever is not probed
 * ends as it would without a ban.
 */

#include "challenge_act.h"
#include "probe.h"

/* The limits of probes; see struct answer in Go. */
#define PROBES_TO_SOURCE (MAX_LIMITS - 7)
#define PROBES_IN_TOTAL (MAX_LIMITS - 8)

__noinline int may_probe(struct packet *p)
{
	return PROBES && p ? charge_answer(p, PROBES_TO_SOURCE, PROBES_IN_TOTAL,
					   bpf_ktime_get_coarse_ns()) :
			     0;
}

/*
 * Past the ledger's budget a flood costs nothing but the first line. Below the other functions of this file there is no
 * room for the frames of a meter.
 */
static __always_inline bool wants_probe(const struct counts *mine, struct packet *p, __u32 verdict)
{
	return PROBES && verdict & VERDICT_STRIKE && p->kind == KIND_NEW && mine->sampled &&
	       VERDICT_ACTION(verdict) != ACTION_OBSERVE && may_send && answerable(p) &&
	       may_probe(p);
}

/* id: of the limit. */
__noinline int probe_xdp(struct xdp_md *ctx, struct packet *p, __u32 id)
{
	const struct limit *l;
	struct tcp_header tcp;

	if (!PROBES || !p || socket_state_xdp(ctx, p) != BPF_TCP_LISTEN)
		return PROBE_NONE;
	l = probing_limit(p, id);
	if (!l || load_xdp(ctx, p->l4_offset, &tcp, sizeof(tcp)) || !turn_into_probe(&tcp, p, l))
		return PROBE_NONE;
	if (p->l3_offset + ip_bytes(p) + TCP_BYTES > p->bytes)
		return PROBE_NONE;
	tcp.check = ~fold_sum(pseudo_sum(p, TCP_BYTES) + sum_words(&tcp, sizeof(tcp)));
	expect_proof(p);
	return answer_with_xdp(ctx, p, &tcp, TCP_BYTES) ? PROBE_SENT : PROBE_SPOILED;
}

/* To be sent by a redirect, as reset_tc. */
__noinline int probe_tc(struct __sk_buff *ctx, struct packet *p, __u32 id)
{
	const struct limit *l;
	struct tcp_header tcp;
	int front;

	if (!PROBES || !p || socket_state_skb(ctx, p) != BPF_TCP_LISTEN)
		return PROBE_NONE;
	l = probing_limit(p, id);
	if (!l)
		return PROBE_NONE;
	if (has_link_header ? load_skb(ctx, p->l4_offset, &tcp, sizeof(tcp)) :
			      load_net(ctx, p->l4_offset, &tcp, sizeof(tcp)))
		return PROBE_NONE;
	front = written_from(ctx);
	if (front < 0 || !turn_into_probe(&tcp, p, l) ||
	    front + p->l3_offset + ip_bytes(p) + TCP_BYTES > ctx->len)
		return PROBE_NONE;
	tcp.check = 0xffff;
	expect_proof(p);
	return answer_with_skb(ctx, p, front + p->l3_offset, &tcp, TCP_BYTES,
			       fold_sum(sum_words(&tcp, sizeof(tcp)))) ?
		       PROBE_SPOILED :
		       PROBE_SENT;
}

static __always_inline __u32 probed(__u32 verdict, int probe)
{
	return with_another(verdict, probe == PROBE_SENT ? ACTION_PROBE : ACTION_DROP);
}
