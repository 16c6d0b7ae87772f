/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The keyed hash of what a limit counts by: rounds of multiply and fold, begun with the limit's secret
 * seed, under three secret multipliers. Of one word each round is a bijection, so under one seed no two
 * IPv4 sources and no two IPv6 /64s ever meet in all bits; which of them meet in a bucket depends on
 * every secret word. An IPv6 address takes two rounds more, so that no address of one family stands for
 * one of the other. Two and not one between its words: with one, turning the top bit of the first and two
 * bits of the second led to the same hash under every key (tried), and a sender may choose both.
 */

#include "abi.h"

static __always_inline __u64 hash_fold(__u64 h, __u64 odd)
{
	h *= odd;
	return h ^ h >> 32;
}

static __always_inline __u64 hash_finish(__u64 h, const __u64 odd[HASH_KEYS])
{
	return hash_fold(hash_fold(h, odd[HASH_ODD2]), odd[HASH_ODD3]);
}

static __always_inline __u64 hash_ipv4(__u32 word, __u64 seed, const __u64 odd[HASH_KEYS])
{
	return hash_finish(hash_fold(word ^ seed, odd[HASH_ODD1]), odd);
}

static __always_inline __u64 hash_ipv6(__u64 high, __u64 low, __u64 seed,
				       const __u64 odd[HASH_KEYS])
{
	__u64 h = hash_fold(hash_fold(high ^ seed, odd[HASH_ODD1]), odd[HASH_ODD2]);

	return hash_finish(hash_fold(h ^ low, odd[HASH_ODD1]), odd);
}
