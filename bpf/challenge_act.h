/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * A verdict of `challenge`, done: within the budgets of answers, and only where the kernel would make a connection of
 * what comes back. Else the SYN is passed on to a listener that must see one, or dropped.
 */

#include "account.h"
#include "many.h"

static __always_inline __u64 control_tick(void)
{
	return control.tick_ns ?:
		       10000000; /* the longest that there is: cookies count as stale the sooner */
}

#include "challenge.h"

/*
 * Answers have limits of their own: the last of a policy. Those of RSTs, for each source and in all, the same of
 * challenges, how many SYNs pass although they are over a limit, and those of RSTs to proof that is refused.
 */
#define ANSWERS_TO_SOURCE (MAX_LIMITS - 2)
#define ANSWERS_IN_TOTAL (MAX_LIMITS - 1)
#define CHALLENGES_TO_SOURCE (MAX_LIMITS - 4)
#define CHALLENGES_IN_TOTAL (MAX_LIMITS - 3)
#define PASSED_ON (MAX_LIMITS - 5)
#define REFUSED_TO_SOURCE (MAX_LIMITS - 9)
#define REFUSED_IN_TOTAL (MAX_LIMITS - 10)

/* For how long an ACK may be the one that a cookie asked for: cookies are good for two minutes and a bit. */
#define PROOF_FOR_NS (130 * 1000000000ULL)

/* So much longer, so that not every challenge writes to a word that all CPUs read. */
#define PROOF_WRITE_JIFFIES 100

static __always_inline int charge_answer(struct packet *p, __u32 to_source, __u32 in_total,
					 __u64 now)
{
	__u32 slot = slot_of(p);
	const struct limit *one = limit_in(slot, to_source), *all = limit_in(slot, in_total);
	__u64 hash = hash_addr(one, &p->src, one->seed);

	return meter_charge(one, hash, now, one->cost) == METER_ADMITTED &&
	       state_charge(all, now, all->cost) == METER_ADMITTED;
}

__noinline int may_challenge(struct packet *p)
{
	return p ? charge_answer(p, CHALLENGES_TO_SOURCE, CHALLENGES_IN_TOTAL,
				 bpf_ktime_get_coarse_ns()) :
		   0;
}

__noinline int may_pass_on(struct packet *p)
{
	const struct limit *l;

	if (!p)
		return 0;
	l = limit_in(slot_of(p), PASSED_ON);
	return state_charge(l, bpf_ktime_get_coarse_ns(), l->cost) == METER_ADMITTED;
}

static __always_inline bool wants_challenge(__u32 verdict)
{
	return features & FEATURE_CHALLENGE && VERDICT_ACTION(verdict) == ACTION_CHALLENGE;
}

/* Which slot of proof_until a source has. The words of the hash are secret. */
static __always_inline __u32 *proof_slot(const struct packet *p)
{
	__u64 hash = p->src.family == 4 ?
			     hash_ipv4(p->src.word[0], 0, control.hash) :
			     hash_ipv6(words(p->src.word[0], p->src.word[1]), 0, 0, control.hash);

	return &tables.proof_until[hash & (PROOF_SOURCES - 1)];
}

/* Whether some source was probed lately, or challenged by a limit that names it: the common case is one load and no. */
static __always_inline bool may_be_proof(const struct packet *p)
{
	if (p->kind != KIND_ESTABLISHED ||
	    (p->tcp_flags & (TCP_SYN | TCP_RST | TCP_ACK)) != TCP_ACK)
		return false;
	return (__s64)(*(volatile __u64 *)&tables.proof_until_jiffies - bpf_jiffies64()) > 0;
}

/* From here on the source's ACKs are looked at. Worst case of a race: by another CPU's clock, a tick apart. */
__noinline int expect_proof(struct packet *p)
{
	__u64 until = bpf_ktime_get_coarse_ns() + PROOF_FOR_NS;
	__u32 seconds = until / 1000000000 + 1, *at;

	if (!p)
		return 0;
	at = proof_slot(p);
	if (*(volatile __u32 *)at != seconds)
		*(volatile __u32 *)at = seconds;
	until = bpf_jiffies64() + PROOF_FOR_NS / control_tick();
	if ((__s64)(until - *(volatile __u64 *)&tables.proof_until_jiffies) > 0)
		*(volatile __u64 *)&tables.proof_until_jiffies = until + PROOF_WRITE_JIFFIES;
	return 0;
}

/* What a SYN that is not answered comes to. */
static __always_inline __u32 passed_on(struct packet *p, __u32 verdict, int found)
{
	if ((found == CHALLENGE_KNOWN || found == CHALLENGE_STALE) && may_pass_on(p))
		return with_another(verdict, ACTION_PASS);
	return with_another(verdict, ACTION_DROP);
}

/* The verdict with what was done: challenge where the packet is the answer now, pass, or drop. */
__noinline __u32 challenged_xdp(struct xdp_md *ctx, struct packet *p, __u32 verdict)
{
	struct counts *mine = own_counts();
	int found, size;

	if (!CHALLENGES || !mine || !p || !may_send || !answerable(p))
		return with_another(verdict, ACTION_DROP);
	found = find_listener_xdp(ctx, p, &mine->challenge);
	if (features & FEATURE_PROVEN && verdict & VERDICT_PROOF && found != CHALLENGE_NONE)
		expect_proof(p);
	if (found != CHALLENGE_READY)
		return passed_on(p, verdict, found);
	size = may_challenge(p) ? read_syn_xdp(ctx, p, &mine->challenge) : 0;
	if (!size ||
	    !challenge_xdp(ctx, p, &mine->challenge, make_answer(p, &mine->challenge, size)))
		return with_another(verdict, ACTION_DROP);
	return verdict;
}

__noinline __u32 challenged_tc(struct __sk_buff *ctx, struct packet *p, __u32 verdict)
{
	struct counts *mine = own_counts();
	int found, size;

	if (!CHALLENGES || !mine || !p || !may_send || !answerable(p))
		return with_another(verdict, ACTION_DROP);
	found = find_listener_skb(ctx, p, &mine->challenge);
	if (features & FEATURE_PROVEN && verdict & VERDICT_PROOF && found != CHALLENGE_NONE)
		expect_proof(p);
	if (found != CHALLENGE_READY)
		return passed_on(p, verdict, found);
	size = may_challenge(p) ? read_syn_skb(ctx, p, &mine->challenge) : 0;
	if (!size ||
	    !challenge_skb(ctx, p, &mine->challenge, make_answer(p, &mine->challenge, size)))
		return with_another(verdict, ACTION_DROP);
	return verdict;
}

static __always_inline int verdict_xdp(__u32 verdict)
{
	if (VERDICT_ACTION(verdict) == ACTION_CHALLENGE)
		return XDP_TX;
	return VERDICT_ACTION(verdict) == ACTION_DROP ? XDP_DROP : XDP_PASS;
}

static __always_inline int verdict_tc(struct __sk_buff *ctx, __u32 verdict)
{
	if (VERDICT_ACTION(verdict) == ACTION_CHALLENGE)
		return bpf_redirect(ctx->ifindex, 0);
	return VERDICT_ACTION(verdict) == ACTION_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}
