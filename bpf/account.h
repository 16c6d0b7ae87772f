/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What was decided, written down: counters of every packet, and the ledger of sources for new
 * connections and refusals. Decides nothing.
 */

#include "maps.h"
#include "packet.h"

/* The ledger's budget of entries written a CPU and window, for admitted and refused each. */
#define LEDGER_WINDOW_NS (1ULL << 26)
#define LEDGER_BUDGET 4096
/* Past it one in LEDGER_WEIGHT on average is written, and counts for that many. */
#define LEDGER_WEIGHT 64

static __always_inline void count_packet(const struct packet *p, __u32 interface, __u32 reason,
					 __u32 action)
{
	__u32 index = interface * COUNTERS_PER_INTERFACE + reason * ACTION_COUNT + action;
	struct counter *c = bpf_map_lookup_elem(&counters, &index);

	if (!c)
		return;
	c->packets += p->segments;
	c->bytes += p->bytes;
}

/*
 * How many packets this one stands for in the ledger; 0: leave it out. A per-CPU value, and a
 * softirq does not interrupt another, so plain arithmetic is exact. The gap between two samples is
 * drawn at random, so that no pattern of a sender can hide between them.
 */
static __always_inline __u32 ledger_weight(__u64 now, __u32 refused)
{
	__u32 zero = 0;
	struct ledger_budget *b = bpf_map_lookup_elem(&ledger_budget, &zero);

	if (!b)
		return 0;
	if (now - b->window_ns >= LEDGER_WINDOW_NS) {
		b->window_ns = now;
		b->used[0] = 0;
		b->used[1] = 0;
	}
	refused &= 1;
	if (b->used[refused] < LEDGER_BUDGET) {
		b->used[refused]++;
		return 1;
	}
	if (b->skip[refused]) {
		b->skip[refused]--;
		return 0;
	}
	b->skip[refused] = bpf_get_prandom_u32() % (2 * LEDGER_WEIGHT - 1);
	return LEDGER_WEIGHT;
}

/* Two CPUs that meet a new source at once: the second to insert loses its count to the race. */
static __always_inline void note_source(const struct addr *source, __u32 service, __u64 now,
					__u32 refused, __u32 packets)
{
	struct source_key key = { .addr = *source, .service = service };
	__u32 weight = ledger_weight(now, refused);
	__u64 add = (__u64)weight * packets;
	struct source *s;

	if (!weight)
		return;
	s = bpf_map_lookup_elem(&sources, &key);
	if (!s) {
		struct source fresh = {
			.admitted = refused ? 0 : add,
			.refused = refused ? add : 0,
			.first_seen_ns = now,
			.last_seen_ns = now,
			.flags = weight > 1 ? SOURCE_SAMPLED : 0,
		};

		bpf_map_update_elem(&sources, &key, &fresh, BPF_NOEXIST);
		return;
	}
	__sync_fetch_and_add(refused ? &s->refused : &s->admitted, add);
	s->last_seen_ns = now;
	if (weight > 1)
		s->flags |= SOURCE_SAMPLED;
}
