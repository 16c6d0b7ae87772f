/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The stages in their order. Each is verified once as a global function; together, inlined, they
 * would pass a new kernel's verifier and not that of 6.1.
 */

/* The headers that the fast path reads lie within this; the kernel is asked to make them linear. */
#define LINEAR_BYTES 128

__noinline int parse_xdp(struct xdp_md *ctx, struct packet *p)
{
	struct cursor c = { (void *)(long)ctx->data, (void *)(long)ctx->data,
			    (void *)(long)ctx->data_end };
	__be16 proto;
	int verdict;

	if (!p)
		return REASON_UNPARSED;
	verdict = parse_link(&c, &proto);
	return verdict ?: parse_network(&c, p, proto);
}

/* An skb may hold its headers in pages. Pulling them up fails only without memory: then unparsed. */
__noinline int parse_skb(struct __sk_buff *ctx, struct packet *p)
{
	struct cursor c;
	__be16 proto;
	int verdict;

	if (!p)
		return REASON_UNPARSED;
	if (ctx->data_end - ctx->data < LINEAR_BYTES && ctx->len > ctx->data_end - ctx->data)
		bpf_skb_pull_data(ctx, ctx->len < LINEAR_BYTES ? ctx->len : LINEAR_BYTES);
	c.start = c.pos = (void *)(long)ctx->data;
	c.end = (void *)(long)ctx->data_end;
	proto = ctx->protocol;
	verdict = has_link_header ? parse_link(&c, &proto) : REASON_NONE;
	return verdict ?: parse_network(&c, p, proto);
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

/*
 * Everything that needs the policy and the clock: packets of listed sources, new connections, and
 * what parse has refused.
 */
__noinline int judge_closely(const struct packet *p, int verdict, int listed)
{
	const struct policy *policy = active_policy();
	struct addr source = {};
	__u32 action;
	__u64 now;

	if (!p || !policy)
		return ACTION_PASS;
	now = clock_ns(policy);
	if (policy->strict_parsing && verdict == REASON_UNPARSED)
		verdict = REFUSE(REASON_UNPARSED);
	if (!verdict && listed)
		verdict = lists_judge(p, now);
	if (!verdict)
		verdict = service_judge(p);
	mask_addr(&source, &p->src, policy->limit.mask4, policy->limit.mask6);
	if (!verdict)
		verdict = limits_judge(policy, &source, now);
	action = finish(p, verdict, policy->mode);
	if (source.family && (p->kind == KIND_NEW || verdict & REFUSED))
		note_source(&source, SERVICE_DEFAULT, now, !!(verdict & REFUSED), p->segments);
	return action;
}

/* The short way: what is neither listed nor new nor refused only needs its counter. */
static __always_inline int judge(const struct packet *p, int verdict)
{
	bool listed = !verdict && lists_may_hold(&p->src);

	if (!verdict && !listed)
		verdict = service_judge(p);
	if (!verdict || listed || verdict & REFUSED || verdict == REASON_UNPARSED)
		return judge_closely(p, verdict, listed);
	return finish(p, verdict, MODE_ENFORCE);
}
