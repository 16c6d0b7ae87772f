/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What a SYN asks for, and the TCP header that answers it with a cookie of the kernel's. Pure, but for the loop:
 * no map, no packet.
 */

#include <bpf/bpf_helpers.h>

#include "listener.h"
#include "parse.h"

#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_MSS 2
#define OPTION_WSCALE 3
#define OPTION_SACK 4
#define OPTION_TIMESTAMPS 8
#define MAX_WSCALE 14 /* RFC 7323 section 2.3 */

/* The lowest bits of a timestamp that carries options (net/ipv4/syncookies.c). */
#define TIMESTAMP_BITS 6
#define TIMESTAMP_NO_WSCALE 15
#define TIMESTAMP_SACK 0x10
#define NS_PER_MS 1000000

static __always_inline __u8 option_byte(const struct challenge *c, __u32 at)
{
	return at < CHALLENGE_SYN_BYTES ? c->syn[at] : 0;
}

static __always_inline void take_option(struct challenge *c, __u8 kind, __u8 size)
{
	struct option_walk *w = &c->walk;
	__u32 at = w->at;

	if (kind == OPTION_WSCALE && size == 3) {
		w->wscale = option_byte(c, at + 2);
		if (w->wscale > MAX_WSCALE)
			w->wscale = MAX_WSCALE;
		w->has_wscale = 1;
	} else if (kind == OPTION_SACK && size == 2) {
		w->has_sack = 1;
	} else if (kind == OPTION_TIMESTAMPS && size == 10 && at <= CHALLENGE_SYN_BYTES - 6) {
		__builtin_memcpy(&w->timestamp, c->syn + at + 2, sizeof(w->timestamp));
		w->has_timestamps = 1;
	}
}

/*
 * What is found lies in a map and not on the stack: the verifier of 6.1 walks the body of bpf_loop once, and takes
 * what a stack holds then for what it holds in the end. It left out the code for a SYN with two options (tried).
 */
struct option_loop {
	struct challenge *c;
};

/* Ends where tcp_parse_options() of the kernel does, so that both read the same. */
static long option_step(__u32 index, void *ctx)
{
	struct challenge *c = ((struct option_loop *)ctx)->c;
	struct option_walk *w = &c->walk;
	__u8 kind, size;

	if (w->at >= w->end)
		return 1;
	kind = option_byte(c, w->at);
	if (kind == OPTION_END)
		return 1;
	if (kind == OPTION_NOP) {
		w->at++;
		return 0;
	}
	size = option_byte(c, w->at + 1);
	if (size < 2 || w->at + size > w->end)
		return 1;
	take_option(c, kind, size);
	w->at += size;
	return 0;
}

/*
 * Our timestamp, which brings the options back with the client's ACK (cookie_init_timestamp()). ECN is never
 * offered.
 */
static __always_inline __be32 option_timestamp(const struct option_walk *w, __u64 now_ns)
{
	__u32 now = now_ns / NS_PER_MS;
	__u32 value = now >> TIMESTAMP_BITS << TIMESTAMP_BITS;

	value |= w->has_wscale ? w->wscale : TIMESTAMP_NO_WSCALE;
	if (w->has_sack)
		value |= TIMESTAMP_SACK;
	if (value > now)
		value -= 1 << TIMESTAMP_BITS;
	return bpf_htonl(value);
}

/*
 * The options of the answer to an SYN with timestamps, in the order of the kernel's own. Their size in bytes. Each but
 * the MSS answers one of the SYN's, so the answer's are larger by at most that.
 */
static __always_inline __u32 write_options(__be32 *to, struct option_walk *w,
					   const struct promise *promise)
{
	w->has_wscale &= promise->scaling;
	w->has_sack &= promise->sack;
	to[1] = bpf_htonl(
		(w->has_sack ? OPTION_SACK << 24 | 2 << 16 : OPTION_NOP << 24 | OPTION_NOP << 16) |
		OPTION_TIMESTAMPS << 8 | 10);
	to[2] = option_timestamp(w, bpf_ktime_get_ns());
	to[3] = w->timestamp;
	if (!w->has_wscale)
		return 16;
	to[4] = bpf_htonl(OPTION_NOP << 24 | OPTION_WSCALE << 16 | 3 << 8 | promise->wscale);
	return 20;
}
