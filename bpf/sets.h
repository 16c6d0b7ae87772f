/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The sets that a source is in: those of `from`, `except` and a service's `allow`, one bit each. */

#include "maps.h"
#include "packet.h"
#include "service.h"

__noinline __u64 sets_of(const struct packet *p, __u32 slot)
{
	struct scoped_key key = {};
	__u64 *in;

	if (!p)
		return 0;
	key.prefixlen = LOCAL_SCOPE_BITS + 32 + LOCAL_BITS(p->src.family);
	key.scope = slot;
	key.addr = p->src;
	in = bpf_map_lookup_elem(&sets, &key);
	return in ? *in : 0;
}
