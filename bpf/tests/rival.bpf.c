// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * The whole program beside a rival that never rests: whenever a decision draws a random number, between
 * its look at a slot and its compare-and-swap, another charge has come first. Only a borrower's draws one.
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "../maps.h"

/* The bucket that the rival charges too. */
volatile __u32 rival_bucket SEC(".data.rival") = 0;

static __always_inline __u32 random_beside_rival(void)
{
	struct bucket *b = &tables.meters[rival_bucket & (METER_BUCKETS - 1)];

	for (int way = 0; way < METER_WAYS; way++)
		__sync_fetch_and_add(&b->slot[way], 1);
	return bpf_get_prandom_u32();
}

#define bpf_get_prandom_u32 random_beside_rival

#include "../limiter.bpf.c"
