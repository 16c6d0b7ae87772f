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

/*
 * CLOCK_MONOTONIC, to a tick where no limit needs more. The kernel advances jiffies by whole ticks of that clock,
 * so they tell the same as the coarse clock and are one load, not a call.
 */
static __always_inline __u64 clock_ns(const struct policy *policy)
{
	if (policy->precise_clock)
		return bpf_ktime_get_ns();
	if (!control.tick_ns)
		return bpf_ktime_get_coarse_ns();
	return bpf_jiffies64() * control.tick_ns + control.jiffies_ns;
}

/* What an ACK proves, but for the end of a handshake, which is counted and goes on as what it is. */
static __always_inline int settled_kind(struct packet *p, int kind)
{
	if (!PROBES || kind != KIND_OPENS)
		return kind;
	charge_opened(p, clock_ns(policy_at(slot_of(p))));
	return KIND_ESTABLISHED;
}

/* A limit's verdict says what is done; from the deadline of `attach --confirm` on that is nothing. */
static __always_inline __u32 with_action(__u32 verdict, __u32 slot, __u64 now)
{
	if (observe_after && verdict & REFUSED && now >= observe_after * 1000000000ULL)
		return (verdict & ~(7 << VERDICT_ACTION_SHIFT)) | ACTION_OBSERVE
									  << VERDICT_ACTION_SHIFT;
	if (VERDICT_ACTION(verdict))
		return verdict;
	return verdict | decide_action(verdict, policy_at(slot)->mode) << VERDICT_ACTION_SHIFT;
}

/* create: the ledger may make a line of a source that it has none of. */
static __always_inline void note(struct counts *mine, const struct packet *p, __u32 slot,
				 __u32 service, __u64 now, __u32 verdict, bool create)
{
	__u32 refused = !!(verdict & REFUSED), weight = ledger_weight(mine, now, refused);
	struct ledger_line line;

	if (PROBES)
		mine->sampled = weight;
	if (!weight || !p->src.family)
		return;
	line.now = now;
	line.refused = refused;
	line.weight = weight;
	line.service = service;
	line.create = create;
	note_source(p, slot, &line);
}

static __always_inline __u32 judge_by_limits(const struct packet *p, const struct service *s,
					     __u32 listen, __u32 slot, __u64 now)
{
	__u64 in = 0;

	if (features & FEATURE_SETS && s->flags & SERVICE_SETS) {
		in = sets_of(p, slot);
		if (in & s->allow)
			return REASON_ALLOWED;
	}
	if (features & FEATURE_MANY && !(s->flags & SERVICE_PLAIN))
		return limits_judge_many(p, listen, slot, now, in);
	if (!s->limit_count)
		return REASON_UNDER_LIMIT;
	return limit_judge_plain(limit_in(slot, s->first_limit), p, slot, now);
}

/* The kernel drops what contradicts itself, so it passes unless the policy is strict. */
static __always_inline int unparsed(__u32 slot)
{
	return policy_at(slot)->strict_parsing ? REFUSE(REASON_UNPARSED) : REASON_UNPARSED;
}

/* A datagram for a QUIC service: it asks for a new connection, or belongs to one. */
static __always_inline int tell_quic(struct packet *p, const struct quic_key *key, __u32 slot,
				     __u64 now)
{
	if (p->quic == QUIC_CUT)
		return p->first_fragment ? REFUSE(REASON_FRAGMENT) : unparsed(slot);
	p->kind = KIND_ESTABLISHED;
	if (p->quic == QUIC_MAY_ASK && quic_seen(key, now) == QUIC_NEW)
		p->kind = KIND_NEW;
	return REASON_NONE;
}

/* A SYN that goes on to a socket. */
static __always_inline void note_waiting(struct packet *p, __u32 verdict)
{
	__u32 action = VERDICT_ACTION(verdict);

	if (features & FEATURE_CONCURRENT && p->kind == KIND_NEW && p->proto == IPPROTO_TCP &&
	    (action == ACTION_PASS || action == ACTION_OBSERVE))
		conns_wait(p);
}

/*
 * The answer to a probe: refused, whatever its limit would say by now, for its probe was sent because it was over. Not of
 * whom the service allows, or the limit is not for, by now: the kernel tells him that there is no connection.
 */
static __always_inline __u32 judge_answer(const struct counts *mine, const struct packet *p,
					  const struct service *s, __u32 slot)
{
	const struct limit *l = limit_at(s, slot, mine->probed - 1);
	__u64 in = sets_asked(s, p, slot);

	if (!l || in & s->allow || !limit_is_of(l, in))
		return REASON_UNDER_LIMIT;
	return with_another(l->over, ACTION_RESET);
}

/* Of a limit that challenges it is: its second meter has refused the proof. */
static __always_inline bool is_over_by_proof(const struct counts *mine, const struct packet *p,
					     const struct service *s, __u32 slot, __u64 now)
{
	const struct limit *l;

	if (!PROBES || p->kind != KIND_PROBED)
		return true;
	l = limit_at(s, slot, mine->probed - 1);
	return l && charge_attempt(l, p, slot, now) == METER_OVER;
}

/* Proof that goes on is no further connection: its SYN was counted. */
static __always_inline __u32 judged_proof(struct counts *mine, struct packet *p,
					  const struct service *s, __u32 slot, __u64 now,
					  __u32 verdict)
{
	__u32 limit;

	if (!(verdict & REFUSED))
		return REASON_PROVEN | ACTION_PASS << VERDICT_ACTION_SHIFT;
	count_limit(mine, p, verdict, s);
	note(mine, p, slot, s->id, now, verdict, true);
	verdict = with_action(verdict, slot, now);
	if (features & FEATURE_BAN && verdict & VERDICT_STRIKE &&
	    VERDICT_ACTION(verdict) == ACTION_RESET) {
		limit = slot << 16 | (VERDICT_LIMIT(verdict) - 1);
		if (may_be_strike(p, limit, now) && is_over_by_proof(mine, p, s, slot, now) &&
		    strike(p, limit, now))
			ban_source(p, limit, s->id, now);
	}
	return verdict;
}

/* A packet that no list decides, and that only its service can. */
static __always_inline __u32 judge_service(struct counts *mine, struct packet *p, __u32 slot,
					   __u64 now)
{
	__u32 listen = listen_of(p, slot), verdict = REASON_NONE;
	const struct service *s = service_at(slot, listen);
	bool quic = features & FEATURE_QUIC && listen & LISTEN_QUIC;

	/* As a program says it that does not look for a service of what asks for nothing. */
	if (!s) {
		note_waiting(p, REASON_NO_SERVICE);
		return p->kind == KIND_ESTABLISHED ? REASON_ESTABLISHED : REASON_NO_SERVICE;
	}
	if (PROBES && p->kind == KIND_PROBED)
		return judged_proof(mine, p, s, slot, now, judge_answer(mine, p, s, slot));
	if (quic)
		verdict = tell_quic(p, &mine->quic, slot, now);
	if (features & (FEATURE_VOLUME | FEATURE_QUIC) && p->kind == KIND_ESTABLISHED &&
	    !(s->flags & SERVICE_VOLUME))
		return REASON_ESTABLISHED;
	if (!verdict)
		verdict = judge_by_limits(p, s, listen, slot, now);
	if (features & FEATURE_PROVEN && p->kind == KIND_PROOF)
		return judged_proof(mine, p, s, slot, now, verdict);
	/* Not what is refused, or would be but for `mode: observe`: what its client sends again counts again. */
	if (quic && p->kind == KIND_NEW && !(verdict & REFUSED))
		quic_note(&mine->quic, now);
	count_limit(mine, p, verdict, s);
	if (!(features & FEATURE_VOLUME) || verdict & REFUSED || p->kind != KIND_ESTABLISHED)
		note(mine, p, slot, s->id, now, verdict, p->kind != KIND_ESTABLISHED);
	verdict = with_action(verdict, slot, now);
	note_waiting(p, verdict);
	return verdict;
}

/* A blocked source does not get even as far as the kernel's own check. */
static __always_inline int judge_unparsed(const struct packet *p, __u32 slot, __u64 now)
{
	if (p->src.family && lists_may_hold(&p->src) &&
	    (lists_judge(p, slot, now) == REFUSE(REASON_BLOCKED) || banned(p, slot, now)))
		return REFUSE(REASON_BLOCKED);
	return unparsed(slot);
}

/* A packet whose shape was refused may be forged at will: it adds to a source, and never makes one. */
static __always_inline __u32 conclude(const struct packet *p, __u32 slot, __u64 now, __u32 verdict)
{
	bool create = p->kind == KIND_NEW || VERDICT_REASON(verdict) == REASON_BLOCKED;
	struct counts *mine = own_counts();

	if (mine && (p->kind == KIND_NEW || verdict & REFUSED))
		note(mine, p, slot, SERVICE_IDS, now, verdict, create);
	return with_action(verdict, slot, now);
}

/*
 * What a list may hold, and what parse has refused or could not read, to its end. REASON_NONE: neither
 * decides. Never the way of a packet of a flood, unless the lists hold its source.
 */
__noinline __u32 judge_closely(struct packet *p, int verdict)
{
	__u32 slot;
	__u64 now;

	if (!p)
		return REASON_UNPARSED;
	slot = slot_of(p);
	now = clock_ns(policy_at(slot));
	if (verdict == REASON_UNPARSED)
		verdict = judge_unparsed(p, slot, now);
	if (!verdict)
		verdict = lists_judge(p, slot, now);
	if (!verdict && banned(p, slot, now))
		verdict = REFUSE(REASON_BLOCKED);
	return verdict ? conclude(p, slot, now, verdict) : REASON_NONE;
}

static __always_inline bool needs_close_look(const struct packet *p, int verdict)
{
	if (verdict)
		return verdict & REFUSED || verdict == REASON_UNPARSED;
	return lists_may_hold(&p->src);
}

/*
 * The short way: what is neither listed nor refused nor for a limit needs no clock and no policy, only
 * its counter. A new connection of a source that no list touches, as in a SYN flood, is judged without
 * a call.
 */
static __always_inline __u32 judge(struct counts *mine, struct packet *p, __u32 verdict)
{
	__u32 slot;

	if (needs_close_look(p, verdict))
		verdict = judge_closely(p, verdict);
	if (!verdict)
		verdict = service_judge(p);
	if (verdict)
		return verdict;
	slot = slot_of(p);
	return judge_service(mine, p, slot, clock_ns(policy_at(slot)));
}
