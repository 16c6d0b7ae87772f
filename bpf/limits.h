/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The limits stage: a new connection against the limits of its service. */

#include "hash.h"
#include "meters.h"
#include "packet.h"

static __always_inline void mask_addr(struct addr *to, const struct addr *from, __u32 mask4,
				      const __u32 mask6[4])
{
	to->family = from->family;
	if (from->family == 4) {
		to->word[0] = from->word[0] & mask4;
		to->word[1] = to->word[2] = to->word[3] = 0;
		return;
	}
	to->word[0] = from->word[0] & mask6[0];
	to->word[1] = from->word[1] & mask6[1];
	to->word[2] = from->word[2] & mask6[2];
	to->word[3] = from->word[3] & mask6[3];
}

static __always_inline __u64 words(__u32 first, __u32 second)
{
	return (__u64)second << 32 | first;
}

static __always_inline __u64 hash_source(const struct limit *l, const struct addr *a)
{
	if (a->family == 4)
		return hash_ipv4(a->word[0] & l->mask4, l->key);
	return hash_ipv6(words(a->word[0] & l->mask6[0], a->word[1] & l->mask6[1]),
			 words(a->word[2] & l->mask6[2], a->word[3] & l->mask6[3]), l->key);
}

/* Worst case: a CPU that loses both its tries is refused. */
__noinline int aggregate_admits(const struct limit *limit, __u64 now)
{
	__u32 zero = 0;
	struct aggregate *a = bpf_map_lookup_elem(&aggregates, &zero);

	if (!limit || !a)
		return 0;
	for (int try = 0; try < 2; try++) {
		__u64 tat = *(volatile __u64 *)&a->tat_ns;
		__u64 next =
			gcra_next(tat, now, limit->aggregate_cost_ns, limit->aggregate_capacity_ns);

		if (!next)
			return 0;
		if (__sync_val_compare_and_swap(&a->tat_ns, tat, next) == tat)
			return 1;
	}
	return 0;
}

static __always_inline int table_full(const struct policy *policy, __u64 now)
{
	if (policy->on_table_full == TABLE_FULL_PASS && aggregate_admits(&policy->limit, now))
		return REASON_TABLE_FULL;
	return REFUSE(REASON_TABLE_FULL);
}

static __always_inline int limits_judge(const struct policy *policy, const struct addr *source,
					__u64 now)
{
	const struct limit *limit = &policy->limit;

	if (limit->kind == LIMIT_NONE)
		return REASON_UNDER_LIMIT;
	switch (meter_charge(limit, hash_source(limit, source), now)) {
	case METER_ADMITTED:
		return REASON_UNDER_LIMIT;
	case METER_OVER:
		return REFUSE(REASON_OVER_NEW);
	case METER_FULL:
		return table_full(policy, now);
	default:
		return REFUSE(REASON_CONTENDED);
	}
}
