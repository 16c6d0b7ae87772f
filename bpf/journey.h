/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The stages in their order. Each is verified once as a global function; together, inlined, they
 * would pass a new kernel's verifier and not that of 6.1.
 */

__noinline int parse_xdp(struct xdp_md *ctx, struct packet *p)
{
	return p ? parse_direct(ctx->data, ctx->data_end, p) : REASON_UNPARSED;
}

__noinline int parse_skb(struct __sk_buff *ctx, struct packet *p)
{
	return p ? parse_direct(ctx->data, ctx->data_end, p) : REASON_UNPARSED;
}

__noinline int reread_xdp(struct xdp_md *ctx, struct packet *p)
{
	return p ? reread(ctx, p, load_xdp) : REASON_UNPARSED;
}

__noinline int reread_skb(struct __sk_buff *ctx, struct packet *p)
{
	if (!p)
		return REASON_UNPARSED;
	return has_link_header ? reread(ctx, p, load_skb) :
				 reread_network(ctx, p, ctx->protocol, load_net);
}

static __always_inline const struct policy *active_policy(void)
{
	__u32 zero = 0, slot;
	struct control *live = bpf_map_lookup_elem(&control, &zero);

	if (!live)
		return NULL;
	slot = *(volatile __u32 *)&live->active;
	return bpf_map_lookup_elem(&policies, &slot);
}

static __always_inline __u64 clock_ns(const struct policy *policy)
{
	return policy->precise_clock ? bpf_ktime_get_ns() : bpf_ktime_get_coarse_ns();
}

static __always_inline __u32 finish(const struct packet *p, __u32 verdict, __u32 mode)
{
	__u32 reason = VERDICT_REASON(verdict);
	__u32 action = decide_action(verdict & REFUSED, mode);

	if (reason < REASON_COUNT)
		count_packet(p, interface_slot, reason, action);
	return action;
}

/* A packet whose shape was refused may be forged at will: it adds to a source, and never makes one. */
static __always_inline __u32 conclude(const struct packet *p, const struct policy *policy,
				      __u64 now, int verdict)
{
	__u32 refused = !!(verdict & REFUSED);

	if (p->kind == KIND_NEW || refused) {
		struct ledger_line line = {
			.now = now,
			.refused = refused,
			.weight = ledger_weight(now, refused),
			.create = p->kind == KIND_NEW || VERDICT_REASON(verdict) == REASON_BLOCKED,
		};

		if (line.weight && p->src.family)
			note_source(p, &policy->limit, &line);
	}
	return finish(p, verdict, policy->mode);
}

/*
 * A new connection of a source that no list touches: the way of every packet of a SYN flood, so it is
 * part of the entry and no call away.
 */
static __always_inline __u32 judge_new(const struct packet *p)
{
	const struct policy *policy = active_policy();
	__u64 now;

	if (!policy)
		return ACTION_PASS;
	now = clock_ns(policy);
	return conclude(p, policy, now, limits_judge(policy, &p->src, now));
}

/* The kernel drops what contradicts itself; a blocked source does not get even that far. */
static __always_inline int judge_unparsed(const struct packet *p, const struct policy *policy,
					  __u64 now)
{
	if (p->src.family && lists_may_hold(&p->src) &&
	    lists_judge(p, now) == REFUSE(REASON_BLOCKED))
		return REFUSE(REASON_BLOCKED);
	return policy->strict_parsing ? REFUSE(REASON_UNPARSED) : REASON_UNPARSED;
}

/* What a list may hold, and what parse has refused or could not read. */
__noinline int judge_closely(const struct packet *p, int verdict)
{
	const struct policy *policy = active_policy();
	__u64 now;

	if (!p || !policy)
		return ACTION_PASS;
	now = clock_ns(policy);
	if (verdict == REASON_UNPARSED)
		verdict = judge_unparsed(p, policy, now);
	if (!verdict)
		verdict = lists_judge(p, now);
	if (!verdict)
		verdict = service_judge(p);
	if (!verdict)
		verdict = limits_judge(policy, &p->src, now);
	return conclude(p, policy, now, verdict);
}

/* The short way: what is neither listed nor new nor refused only needs its counter. */
static __always_inline int judge(const struct packet *p, int verdict)
{
	if (verdict) {
		if (verdict & REFUSED || verdict == REASON_UNPARSED)
			return judge_closely(p, verdict);
		return finish(p, verdict, MODE_ENFORCE);
	}
	if (lists_may_hold(&p->src))
		return judge_closely(p, verdict);
	verdict = service_judge(p);
	return verdict ? finish(p, verdict, MODE_ENFORCE) : judge_new(p);
}
