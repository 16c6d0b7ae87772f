/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The limits stage: a new connection against the limits of its service. */

#include "meters.h"
#include "packet.h"
#include "siphash.h"

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

/* source: the packet's source under the limit's prefix length, filled for the account stage too. */
static __always_inline int limits_judge(const struct policy *policy, const struct addr *source,
					__u64 now)
{
	if (policy->limit.kind == LIMIT_NONE)
		return REASON_UNDER_LIMIT;
	switch (meter_charge(&policy->limit, siphash_addr(policy->limit.key, source), now)) {
	case METER_ADMITTED:
		return REASON_UNDER_LIMIT;
	case METER_OVER:
		return REFUSE(REASON_OVER_NEW);
	case METER_FULL:
		if (policy->on_table_full == TABLE_FULL_DROP)
			return REFUSE(REASON_TABLE_FULL);
		return REASON_TABLE_FULL;
	default:
		return REFUSE(REASON_CONTENDED);
	}
}
