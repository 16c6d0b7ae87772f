/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * SipHash-1-3 of an address, keyed (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012).
 * A keyed hash without structure: who may choose addresses and watch verdicts still cannot find one
 * that shares a victim's bucket. The message length is part of the hash, so families never meet.
 */

#include "abi.h"

struct siphash {
	__u64 v0, v1, v2, v3;
};

#define ROTL64(x, n) (((x) << (n)) | ((x) >> (64 - (n))))

static __always_inline void sip_round(struct siphash *s)
{
	s->v0 += s->v1;
	s->v1 = ROTL64(s->v1, 13) ^ s->v0;
	s->v0 = ROTL64(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = ROTL64(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = ROTL64(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = ROTL64(s->v1, 17) ^ s->v2;
	s->v2 = ROTL64(s->v2, 32);
}

static __always_inline void sip_block(struct siphash *s, __u64 block)
{
	s->v3 ^= block;
	sip_round(s);
	s->v0 ^= block;
}

static __always_inline void sip_init(struct siphash *s, const __u64 key[2])
{
	s->v0 = key[0] ^ 0x736f6d6570736575ULL;
	s->v1 = key[1] ^ 0x646f72616e646f6dULL;
	s->v2 = key[0] ^ 0x6c7967656e657261ULL;
	s->v3 = key[1] ^ 0x7465646279746573ULL;
}

static __always_inline __u64 sip_finish(struct siphash *s, __u64 last)
{
	sip_block(s, last);
	s->v2 ^= 0xff;
	sip_round(s);
	sip_round(s);
	sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

static __always_inline __u64 sip_words(const __u32 *pair)
{
	return (__u64)pair[1] << 32 | pair[0];
}

/* IPv4 is a message of 4 bytes, IPv6 one of 16. */
static __always_inline __u64 siphash_addr(const __u64 key[2], const struct addr *a)
{
	struct siphash s;

	sip_init(&s, key);
	if (a->family == 4)
		return sip_finish(&s, 4ULL << 56 | a->word[0]);
	sip_block(&s, sip_words(&a->word[0]));
	sip_block(&s, sip_words(&a->word[2]));
	return sip_finish(&s, 16ULL << 56);
}
