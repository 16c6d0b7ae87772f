/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* What a limit of concurrent connections counts a source under. */

#include "limits.h"

static __always_inline void conn_key_of(struct conn_key *key, const struct limit *l,
					const struct addr *source)
{
	key->limit = l->seed;
	key->pad = 0;
	__builtin_memset(&key->addr, 0, sizeof(key->addr));
	if (l->per != PER_SERVICE)
		mask_addr(&key->addr, source, l->mask4, l->mask6);
}

/* Where a key's SYNs wait: of the whole key, masked as it is. */
static __always_inline __u64 conn_key_hash(const struct conn_key *key)
{
	return hash_whole(&key->addr, key->limit);
}
