/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The early refusal: a SYN against a limit of concurrent connections, by what is established and what is known
 * to wait. It saves the kernel work and decides nothing for good: what it lets through the gate may refuse.
 */

#include "conns_key.h"
#include "conns_pending.h"
#include "conns_table.h"

/* What a SYN is to a limit of concurrent connections: METER_ADMITTED or METER_OVER. */
__noinline int conns_look(const struct limit *l, const struct packet *p, __u64 now)
{
	struct conn_key key;
	__u64 *count, held, *where, waiting;

	if (!l || !p)
		return METER_ADMITTED;
	conn_key_of(&key, l, &p->src);
	count = bpf_map_lookup_elem(&conns, &key);
	held = count ? conn_total(*(volatile __u64 *)count) : 0;
	if (held >= l->capacity)
		return METER_OVER;
	waiting = waiting_level(conn_key_hash(&key), now);
	if (held + waiting < l->capacity)
		return METER_ADMITTED;
	/* One that waits already is only sent again. */
	return pending_waits(pending_find(p, now, false, &where), now) ? METER_ADMITTED :
									 METER_OVER;
}
