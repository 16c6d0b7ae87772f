/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What was decided, written down: counters of every packet, and the ledger of sources for new
 * connections and refusals. Decides nothing.
 */

#include "frozen.h"
#include "maps.h"
#include "limits.h"
#include "service.h"

/* The ledger's budget of counts written a CPU, interface and window, for admitted and refused each. */
#define LEDGER_WINDOW_NS (1ULL << 26)
#define LEDGER_BUDGET 1024
/* Past it one in LEDGER_WEIGHT on average is written, and counts for that many. */
#define LEDGER_WEIGHT 256
/*
 * How many sources a CPU may add on an interface in a window, admitted and refused each: a flood of new ones
 * must not push the others out.
 */
#define LEDGER_CREATED 256

static __always_inline struct counts *own_counts(void)
{
	__u32 at = interface_slot;

	return bpf_map_lookup_elem(&counters, &at);
}

static __always_inline void add_packet(struct counter *c, const struct packet *p)
{
	c->packets += p->segments;
	c->bytes += p->bytes;
}

static __always_inline void count_packet(struct counts *mine, const struct packet *p, __u32 verdict)
{
	__u32 end = VERDICT_REASON(verdict) * ACTION_COUNT + VERDICT_ACTION(verdict);

	if (end < REASON_COUNT * ACTION_COUNT)
		add_packet(&mine->by_end[end], p);
}

static __always_inline void count_far(const struct packet *p, void *map, __u32 id)
{
	struct counter *c = bpf_map_lookup_elem(map, &id);

	if (c)
		add_packet(c, p);
}

/*
 * What met a limit and was refused, observed, or let through by a full table; else what a service admitted.
 * The first ids, which most policies
 * have no more than, lie beside the other counters: in a map of their own they may come to lie a multiple
 * of 4096 bytes from those, and then each load waits for the store before it (tried: 13 of 38 ns).
 */
static __always_inline void count_limit(struct counts *mine, const struct packet *p, __u32 verdict,
					const struct service *s)
{
	__u32 id = VERDICT_LIMIT(verdict);

	if (id) {
		id--;
		if (id < NEAR_IDS)
			add_packet(&mine->near_limits[id], p);
		else
			count_far(p, &limit_counters, id);
	} else if (!(verdict & REFUSED)) {
		id = s->id;
		if (id < NEAR_IDS)
			add_packet(&mine->near_services[id], p);
		else
			count_far(p, &service_counters, id);
	}
}

/*
 * How many packets this one stands for in the ledger; 0: leave it out. A per-CPU value, and a
 * softirq does not interrupt another, so plain arithmetic is exact. The gap between two samples is
 * drawn at random, so that no pattern of a sender can hide between them.
 */
static __always_inline __u32 ledger_weight(struct counts *mine, __u64 now, __u32 refused)
{
	struct ledger_budget *b = &mine->ledger;

	if (now - b->window_ns >= LEDGER_WINDOW_NS) {
		b->window_ns = now;
		b->used[0] = 0;
		b->used[1] = 0;
		b->created[0] = 0;
		b->created[1] = 0;
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

/* Who is refused has a budget of his own: new sources that are admitted must not keep him out. */
static __always_inline bool may_create(__u32 refused)
{
	struct counts *mine = own_counts();

	return mine && mine->ledger.created[refused & 1]++ < LEDGER_CREATED;
}

/* What a packet adds to the ledger. */
struct ledger_line {
	__u64 now;
	__u32 refused;
	__u32 weight;
	__u32 service;
	bool create; /* if the source is not there yet */
};

/* Two CPUs that meet a new source at once: the second to insert loses its count to the race. */
static __always_inline void source_write(const struct source_key *key, const struct ledger_line *l,
					 __u64 add)
{
	__u32 flags = l->weight > 1 ? SOURCE_SAMPLED : 0;
	struct source *s = bpf_map_lookup_elem(&sources, key);

	if (!s) {
		struct source fresh = {
			.admitted = l->refused ? 0 : add,
			.refused = l->refused ? add : 0,
			.first_seen_ns = l->now,
			.last_seen_ns = l->now,
			.flags = flags,
		};

		if (l->create && may_create(l->refused))
			bpf_map_update_elem(&sources, key, &fresh, BPF_NOEXIST);
		return;
	}
	__sync_fetch_and_add(l->refused ? &s->refused : &s->admitted, add);
	s->last_seen_ns = l->now;
	s->flags |= flags;
}

/* A function of its own: most packets of a flood never come here. */
__noinline int note_source(const struct packet *p, __u32 slot, const struct ledger_line *l)
{
	const struct policy *policy = policy_at(slot);
	struct source_key key = {};

	if (!p || !l)
		return 0;
	key.service = l->service;
	mask_addr(&key.addr, &p->src, policy->mask4, policy->mask6);
	source_write(&key, l, (__u64)l->weight * p->segments);
	return 0;
}
