/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The list index: what an address is asked of before the lists are. It may say that a list holds something that
 * it does not, which costs a look-up; never the reverse. Most packets read one word of `control` and one word each
 * of two bitmaps, 1.5 MiB together, to stay in a CPU's own cache. pkg/datapath/listindex.go has the same in Go.
 *
 * There are two halves of everything. Readers use the one that the word names; writers set bits in that one, and
 * while `block compact` builds the other anew (INDEX_WRITE_BOTH) in both. Bits come before the entry that they
 * are of; both within one run of a program, or under the lock of the instance.
 */

#include <bpf/bpf_endian.h>

#include "maps.h"

#define INDEX_ODD 0x9e3779b97f4a7c15ULL

static __always_inline __u64 index_control(void)
{
	return *(volatile __u64 *)&control.lists;
}

/*
 * An index within a table: the compiler leaves out a mask that changes nothing, and then the verifier of 6.1 has lost
 * the bounds of what was put together by `|`.
 */
#define BOUNDED(at, size) asm volatile("%0 &= %1" : "+r"(at) : "i"((size)-1))

/* An address in host order, at the upper end of 128 bits. */
struct halves {
	__u64 high, low;
};

static __always_inline struct halves halves_of(const struct addr *a)
{
	struct halves h = {
		.high = (__u64)bpf_ntohl(a->word[0]) << 32 | bpf_ntohl(a->word[1]),
		.low = (__u64)bpf_ntohl(a->word[2]) << 32 | bpf_ntohl(a->word[3]),
	};

	return h;
}

/* Whether three bits of a word are set that a hash names. */
static __always_inline __u64 hash_bits(__u64 word, __u64 hash)
{
	return word >> (hash >> 40 & 63) & word >> (hash >> 34 & 63) & word >> (hash >> 28 & 63) &
	       1;
}

/* By the address, of IPv6 by its /64: one look is for the host and the /64. */
static __always_inline __u64 host_bit(__u64 word, const struct addr *a)
{
	__u64 x = bpf_ntohl(a->word[0]), at;

	if (a->family != 4)
		x = (x << 32 | bpf_ntohl(a->word[1])) ^ x;
	x *= INDEX_ODD;
	at = (word & INDEX_HALF) | x >> (64 - INDEX_HOST_SHIFT);
	BOUNDED(at, 2 * INDEX_HOST_WORDS);
	return hash_bits(*(volatile __u64 *)&tables.index.hosts[at], x);
}

/* One bit an IPv4 /22, and one a hash of an IPv6 /32. */
static __always_inline __u64 prefix_bit(__u64 word, const struct addr *a)
{
	__u32 bit = bpf_ntohl(a->word[0]);
	const __u64 *prefixes = tables.index.prefixes4;
	__u64 at;

	if (a->family != 4) {
		bit *= (__u32)(INDEX_ODD >> 32);
		prefixes = tables.index.prefixes6;
	}
	at = (word & INDEX_HALF) >> (INDEX_HOST_SHIFT - INDEX_PREFIX_SHIFT) |
	     bit >> (32 - INDEX_PREFIX_SHIFT);
	BOUNDED(at, 2 * INDEX_PREFIX_WORDS);
	return *(volatile __u64 *)&prefixes[at] >> (bit >> (26 - INDEX_PREFIX_SHIFT) & 63) & 1;
}

/* what is a list (bit 2), a family (bit 1: IPv6) and of IPv6 a part: below /64 (0) or from there on (1). */
static __always_inline __u32 index_what(__u32 list, __u32 family, __u32 part)
{
	return list << 2 | (family == 4 ? 0 : 2) | part;
}

/*
 * A prefix of the addresses that begin with h: number is 63 less its length, or 127 less it in the part of the longer
 * ones.
 */
static __always_inline __u64 entry_hash(struct halves h, __u32 number, __u32 what)
{
	__u64 x = (h.high ^ h.low >> 7 ^ (__u64)(number << 3 | what) << 48) * INDEX_ODD;

	return (x ^ x >> 32) * INDEX_ODD;
}

static __always_inline __u64 entry_place(__u64 word, __u64 hash)
{
	__u64 at = (word & INDEX_HALF) << (INDEX_ENTRY_SHIFT - INDEX_HOST_SHIFT) |
		   hash >> (64 - INDEX_ENTRY_SHIFT);

	BOUNDED(at, 2 * INDEX_ENTRY_WORDS);
	return at;
}

static __always_inline __u64 entry_word(__u64 word, __u64 hash)
{
	return *(volatile __u64 *)&tables.index.entries[entry_place(word, hash)];
}

/* What the lists may hold of an address. */
enum may {
	MAY_PREFIX = 1,
	MAY_ALLOW_HOST = 2, /* or a /64 */
	MAY_BLOCK_HOST = 4,
};

/* Hosts and /64s are all entered as if of length 64; which list they are on is told by other bits of one word. */
static __always_inline __u32 hosts_that_may(__u64 word, const struct addr *a)
{
	struct halves h = halves_of(a);
	__u64 hash, bits;

	h.low = 0;
	hash = entry_hash(h, 63, index_what(0, a->family, 1));
	bits = entry_word(word, hash);
	return hash_bits(bits, hash << 18) << 1 | hash_bits(bits, hash) << 2;
}

static __always_inline __u32 lists_may_hold(const struct addr *a)
{
	__u64 word = index_control();
	__u32 holds = a->family == 4 ? word : word >> INDEX_FAMILY_BITS, may = 0;

	if (holds & INDEX_PREFIXES)
		may = prefix_bit(word, a);
	if (holds & INDEX_HOSTS && host_bit(word, a))
		may |= hosts_that_may(word, a);
	return may;
}

static __always_inline __u64 bits_of(__u64 hash)
{
	return 1ULL << (hash >> 40 & 63) | 1ULL << (hash >> 34 & 63) | 1ULL << (hash >> 28 & 63);
}

/* For a program that puts a host on a list: to be called before it inserts it. */
static __always_inline void index_host(const struct addr *a, __u32 list)
{
	__u64 word = index_control(), holds = INDEX_HOSTS, x = bpf_ntohl(a->word[0]), at, hash,
	      half;
	struct halves h = halves_of(a);

	h.low = 0;
	if (a->family != 4) {
		x = (x << 32 | bpf_ntohl(a->word[1])) ^ x;
		holds <<= INDEX_FAMILY_BITS;
	}
	x *= INDEX_ODD;
	hash = entry_hash(h, 63, index_what(0, a->family, 1));
	for (half = 0; half < 2; half++) {
		if (half && !(word & INDEX_WRITE_BOTH))
			break;
		at = ((word & INDEX_HALF) ^ half * INDEX_HALF) | x >> (64 - INDEX_HOST_SHIFT);
		BOUNDED(at, 2 * INDEX_HOST_WORDS);
		__sync_fetch_and_or(&tables.index.hosts[at], bits_of(x));
		at = entry_place(word ^ half * INDEX_HALF, hash);
		__sync_fetch_and_or(&tables.index.entries[at],
				    bits_of(list == LIST_ALLOW ? hash << 18 : hash));
		__sync_fetch_and_or(&control.lists, holds << half * INDEX_HOLDS_BITS);
	}
}

/* The number of the only bit that is set, by a de Bruijn sequence. */
static const __u8 bit_numbers[64] = {
	0,  1,	2,  53, 3,  7,	54, 27, 4,  38, 41, 8,	34, 55, 48, 28, 62, 5,	39, 46, 44, 42,
	22, 9,	24, 35, 59, 56, 49, 18, 29, 11, 63, 52, 6,  26, 37, 40, 33, 47, 61, 45, 43, 21,
	23, 58, 17, 10, 51, 25, 36, 32, 60, 20, 57, 16, 50, 31, 19, 15, 30, 14, 13, 12,
};

static __always_inline __u32 bit_number(__u64 bit)
{
	return bit_numbers[bit * 0x022fdd63cc95386dULL >> 58];
}

/* The first bits of a half, as many as the length that number stands for. */
static __always_inline __u64 first_bits(__u32 number)
{
	return ~0ULL << (number & 63) << 1;
}

/*
 * Which prefixes of a list may hold an address: by number, so the lowest bit is the longest. Only lengths that are in
 * use are looked for.
 */
static __always_inline __u64 prefixes_that_may(__u64 word, const struct addr *a, __u32 what)
{
	__u64 set = (word & INDEX_HALF) >> (INDEX_HOST_SHIFT - 3) | what;
	__u32 n, number;
	struct halves own = halves_of(a), h;
	__u64 left, low, hash, found = 0;

	BOUNDED(set, 16);
	left = *(volatile __u64 *)&tables.index.lengths[set];
	for (n = 0; n < 64 && left; n++) {
		low = left & -left;
		left ^= low;
		number = bit_number(low);
		h.high = what & 1 ? own.high : own.high & first_bits(number);
		h.low = what & 1 ? own.low & first_bits(number) : 0;
		hash = entry_hash(h, number, what);
		found |= hash_bits(entry_word(word, hash), hash) << (number & 63);
	}
	return found;
}
