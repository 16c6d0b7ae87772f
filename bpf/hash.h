/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The keyed hash of a masked address: three rounds of multiply and fold under five secret words, drawn
 * at random for each limit. Of one word each round is a bijection, so no two IPv4 sources and no two
 * IPv6 /64s ever meet in all bits; which of them meet in a bucket depends on every secret word. The
 * families begin with different words, so that no address of one stands for one of the other.
 */

#include "abi.h"

static __always_inline __u64 hash_fold(__u64 h, __u64 odd)
{
	h *= odd;
	return h ^ h >> 32;
}

static __always_inline __u64 hash_finish(__u64 h, const __u64 key[HASH_KEYS])
{
	return hash_fold(hash_fold(h, key[HASH_ODD2]), key[HASH_ODD3]);
}

static __always_inline __u64 hash_ipv4(__u32 word, const __u64 key[HASH_KEYS])
{
	return hash_finish(hash_fold(word ^ key[HASH_IPV4], key[HASH_ODD1]), key);
}

static __always_inline __u64 hash_ipv6(__u64 high, __u64 low, const __u64 key[HASH_KEYS])
{
	__u64 h = hash_fold(high ^ key[HASH_IPV6], key[HASH_ODD1]);

	return hash_finish(hash_fold(h ^ low, key[HASH_ODD1]), key);
}
