/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * All limits that a packet meets, those of its service and the global ones: first every one is looked
 * at, and only if all admit the packet is it charged to each. So who is refused is charged nowhere. A
 * charge that loses its race after the look leaves earlier limits charged: nothing is ever taken back,
 * for that could admit too much.
 */

#include "account.h"
#include "conns_look.h"
#include "limits.h"

/* What one limit says of one packet before anything is charged. Beside the verdicts of the meters. */
#define LIMIT_SKIPPED 16

/* `per: service`: a TAT of its own, whole and in nanoseconds. */
static __always_inline int state_look(const struct limit *l, __u64 now, __u64 cost)
{
	struct limit_state *state = own_state(l);

	return gcra_next(*(volatile __u64 *)&state->tat_ns, now, cost, l->capacity) ?
		       METER_ADMITTED :
		       METER_OVER;
}

struct state_try {
	struct limit_state *state;
	__u64 now;
	__u64 cost;
	__u64 capacity;
	int verdict;
};

static long state_step(__u32 index, void *ctx)
{
	struct state_try *t = ctx;
	__u64 tat = *(volatile __u64 *)&t->state->tat_ns;
	__u64 next = gcra_next(tat, t->now, t->cost, t->capacity);

	t->verdict = METER_OVER;
	if (!next)
		return 1;
	t->verdict = METER_CONTENDED;
	if (__sync_val_compare_and_swap(&t->state->tat_ns, tat, next) != tat)
		return 0;
	t->verdict = METER_ADMITTED;
	return 1;
}

/*
 * Every CPU is at this word, so a race is common: as many tries as the meters make. A function, for inlined
 * its frame lies under that of meter_charge, and 512 bytes are all there is.
 */
__noinline int state_charge(const struct limit *l, __u64 now, __u64 cost)
{
	struct state_try t = { .now = now, .cost = cost, .verdict = METER_CONTENDED };

	if (!l)
		return METER_CONTENDED;
	t.state = own_state(l);
	t.capacity = l->capacity;
	bpf_loop(METER_MAX_TRIES, state_step, &t, 0);
	return t.verdict;
}

/* One try: what loses it to a CPU that charged was counted by that one. */
static __always_inline void state_reject(const struct limit *l, __u64 now, __u64 cost)
{
	struct limit_state *state = own_state(l);
	__u64 tat = *(volatile __u64 *)&state->tat_ns, next;

	if (tat >= now + l->capacity)
		return;
	next = (tat > now ? tat : now) + cost;
	if (next > now + l->capacity)
		next = now + l->capacity;
	__sync_val_compare_and_swap(&state->tat_ns, tat, next);
}

/* in: the sets that the source is in. */
static __always_inline bool limit_is_of(const struct limit *l, __u64 in)
{
	return (!l->from || l->from & in) && !(l->except & in);
}

static __always_inline bool is_bytes_out(const struct limit *l)
{
	return features & FEATURE_BYTES_OUT && l->kind == LIMIT_BYTES_OUT;
}

static __always_inline bool is_concurrent(const struct limit *l)
{
	return features & FEATURE_CONCURRENT && l->kind == LIMIT_CONCURRENT;
}

static __always_inline bool limit_applies(const struct limit *l, const struct packet *p, __u64 in)
{
	__u8 counted = features & FEATURE_PROVEN && l->flags & LIMIT_PROVEN ? KIND_PROOF : KIND_NEW;

	if (l->kind == LIMIT_NEW && p->kind != counted)
		return false;
	if (is_bytes_out(l) && p->kind == KIND_ESTABLISHED)
		return false;
	if (is_concurrent(l) && (p->kind != KIND_NEW || p->proto != IPPROTO_TCP))
		return false;
	return limit_is_of(l, in);
}

/* Verified once for all limits of a packet. in: the sets that the source is in. */
__noinline int limit_look(const struct limit *l, const struct packet *p, __u64 now, __u64 in)
{
	if (!l || !p || !limit_applies(l, p, in))
		return LIMIT_SKIPPED;
	if (is_concurrent(l))
		return conns_look(l, p, now);
	if (l->per == PER_SERVICE)
		return state_look(l, now, limit_cost(l, p));
	return meter_look(l, hash_key(l, p), now, limit_cost(l, p));
}

/* Of bytes_out a second look: sent.h charges them. */
__noinline int limit_charge(const struct limit *l, const struct packet *p, __u64 now, __u64 in)
{
	if (!l || !p || !limit_applies(l, p, in))
		return LIMIT_SKIPPED;
	if (is_bytes_out(l))
		return limit_look(l, p, now, in);
	/* The gate takes the places. */
	if (is_concurrent(l))
		return l->flags & LIMIT_OBSERVES ? conns_look(l, p, now) : LIMIT_SKIPPED;
	if (l->per == PER_SERVICE)
		return state_charge(l, now, limit_cost(l, p));
	return meter_charge(l, hash_key(l, p), now, limit_cost(l, p));
}

__noinline int limit_reject(const struct limit *l, const struct packet *p, __u64 now, __u64 in)
{
	if (!l || !p || !(l->flags & LIMIT_COUNT_REJECTED) || is_bytes_out(l) || is_concurrent(l) ||
	    !limit_applies(l, p, in))
		return 0;
	if (l->per == PER_SERVICE)
		state_reject(l, now, limit_cost(l, p));
	else
		meter_reject(l, hash_key(l, p), now, limit_cost(l, p));
	return 0;
}

/* The n-th limit that packets of a service meet, NULL behind the last. */
static __always_inline const struct limit *limit_at(const struct service *s, __u32 slot, __u32 n)
{
	const struct policy *policy = policy_at(slot);

	if (n < s->limit_count)
		return limit_in(slot, s->first_limit + n);
	n -= s->limit_count;
	return n < policy->global_count ? limit_in(slot, policy->global_first + n) : NULL;
}

/* Whether the second meter of a limit would refuse a SYN's ACK, which only proof can have filled. */
__noinline int proven_is_over(const struct limit *l, const struct limit *second,
			      const struct packet *p, __u64 now, __u64 in)
{
	if (!l || !second || !p || !limit_applies(l, p, in))
		return 0;
	return meter_look(second, hash_key(second, p), now, limit_cost(second, p)) == METER_OVER;
}

/* Proof over this second meter is a strike. */
static __always_inline bool strikes_out(const struct limit *second)
{
	return features & FEATURE_BAN && second->over & VERDICT_STRIKE;
}

/* Proof meets the second meter of a limit, where it has one. */
static __always_inline const struct limit *met_by(const struct limit *l, const struct packet *p,
						  __u32 slot)
{
	if (features & FEATURE_PROVEN && l->proven && p->kind == KIND_PROOF)
		return limit_in(slot, l->proven);
	return l;
}

/* Who has completed a handshake here in the last ten minutes. No SYN can add to that map, nor push anybody out of it. */
__noinline int verified_lately(const struct packet *p, __u32 slot, __u64 now)
{
	const struct policy *policy = policy_at(slot);
	struct addr source;
	__u64 *at;

	if (!p)
		return 0;
	mask_addr(&source, &p->src, policy->mask4, policy->mask6);
	at = bpf_map_lookup_elem(&verified, &source);
	return at && (__s64)(now - *(volatile __u64 *)at) < (__s64)VERIFIED_FOR_NS;
}

/* Over this limit, and let through all the same. */
static __always_inline bool is_exempt(const struct limit *l, const struct packet *p, __u32 slot,
				      __u64 now)
{
	return features & FEATURE_EXEMPT && l->flags & LIMIT_EXEMPTS && p->kind == KIND_NEW &&
	       verified_lately(p, slot, now);
}

/*
 * REASON_UNDER_LIMIT where a limit would admit the packet or does not apply. A SYN over a second meter is not
 * challenged but refused: its ACK would be. Unless the limit bans: that ACK is the strike.
 */
static __always_inline __u32 look_at(const struct limit *l, const struct packet *p, __u32 slot,
				     __u64 now, __u64 in)
{
	const struct limit *second;
	int meter;

	if (features & FEATURE_PROVEN && l->proven && p->kind == KIND_NEW) {
		second = limit_in(slot, l->proven);
		if (proven_is_over(l, second, p, now, in))
			return strikes_out(second) ? l->over :
						     verdict_of(l, REFUSE(REASON_OVER_NEW));
	}
	l = met_by(l, p, slot);
	meter = limit_look(l, p, now, in);
	if (meter == LIMIT_SKIPPED || meter == METER_ADMITTED)
		return REASON_UNDER_LIMIT;
	if (is_exempt(l, p, slot, now))
		return REASON_EXEMPT;
	if (meter == METER_FULL && policy_at(slot)->on_table_full != TABLE_FULL_DROP &&
	    aggregate_would_admit(l, now))
		return REASON_UNDER_LIMIT;
	if (meter == METER_FULL)
		return no_room(l, slot);
	return charged(meter, l, slot, now);
}

/*
 * What limits say that do not end it, together: a challenge before what is only observed, that before an exemption, and
 * the first of each.
 */
static __always_inline __u32 with_soft(__u32 so_far, __u32 verdict)
{
	if (features & FEATURE_EXEMPT && verdict == REASON_EXEMPT)
		return so_far == REASON_UNDER_LIMIT ? verdict : so_far;
	if (verdict & VERDICT_CHALLENGED)
		return so_far & VERDICT_CHALLENGED ? so_far | (verdict & VERDICT_PROOF) : verdict;
	return verdict & VERDICT_OBSERVED && !(so_far & VERDICT_CHALLENGED) ? verdict : so_far;
}

/*
 * REASON_UNDER_LIMIT where all limits would admit the packet, else what one that does not says: the one
 * that refused the packet before, if it does so again, for who is over one limit mostly goes on to be,
 * and else the first. That spares a flood of one offender all other looks. Only where all limits drop new
 * connections: which limit counts it may depend on what came before, and never the reason or what is done.
 */
static __always_inline __u32 look_at_all(struct counts *mine, const struct service *s,
					 const struct packet *p, __u32 slot, __u64 now, __u64 in)
{
	__u32 soft = REASON_UNDER_LIMIT, last = mine->refused_by, verdict;
	const struct limit *l = NULL;

	if (s->flags & SERVICE_DROPS && last >> 8 == s->id)
		l = limit_at(s, slot, last & 0xff);
	if (l) {
		verdict = look_at(l, p, slot, now, in);
		if (verdict & REFUSED)
			return verdict;
	}
	for (__u32 n = 0; n < MAX_PACKET_LIMITS; n++) {
		l = limit_at(s, slot, n);
		if (!l)
			break;
		verdict = look_at(l, p, slot, now, in);
		if (verdict & REFUSED) {
			mine->refused_by = s->id << 8 | n;
			return verdict;
		}
		soft = with_soft(soft, verdict);
	}
	return soft;
}

static __always_inline __u32 charge_all(const struct service *s, const struct packet *p, __u32 slot,
					__u64 now, __u64 in)
{
	__u32 verdict = REASON_UNDER_LIMIT;

	for (__u32 n = 0; n < MAX_PACKET_LIMITS; n++) {
		const struct limit *l = limit_at(s, slot, n);
		__u32 one;
		int meter;

		if (!l)
			break;
		l = met_by(l, p, slot);
		meter = limit_charge(l, p, now, in);
		if (meter == LIMIT_SKIPPED || meter == METER_ADMITTED)
			continue;
		one = is_exempt(l, p, slot, now) ? REASON_EXEMPT : charged(meter, l, slot, now);
		if (one & REFUSED)
			return one;
		verdict = one == REASON_EXEMPT || one & (VERDICT_CHALLENGED | VERDICT_OBSERVED) ?
				  with_soft(verdict, one) :
				  one;
	}
	return verdict;
}

static __always_inline void reject_all(const struct service *s, const struct packet *p, __u32 slot,
				       __u64 now, __u64 in)
{
	for (__u32 n = 0; n < MAX_PACKET_LIMITS; n++) {
		const struct limit *l = limit_at(s, slot, n);

		if (!l)
			break;
		limit_reject(l, p, now, in);
	}
}

__noinline __u32 limits_judge_many(const struct packet *p, __u32 listen, __u32 slot, __u64 now,
				   __u64 in)
{
	const struct service *s = service_at(slot, listen);
	struct counts *mine = own_counts();
	__u32 verdict, looked;

	if (!p || !s || !mine)
		return REASON_NO_SERVICE;
	looked = verdict = look_at_all(mine, s, p, slot, now, in);
	if (!(verdict & REFUSED))
		verdict = charge_all(s, p, slot, now, in);
	/* The first meter of a limit may admit whom its second does not. */
	if (features & FEATURE_BAN && looked & VERDICT_CHALLENGED && !(verdict & REFUSED))
		verdict = with_soft(verdict, looked);
	if (verdict & REFUSED && s->flags & SERVICE_COUNT_REJECTED)
		reject_all(s, p, slot, now, in);
	return settled(verdict);
}
