/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Types of feeds: lists of addresses that others publish, each loaded, replaced and removed as a whole. Included by
 * abi.h, behind what it needs.
 */

/*
 * What programs ask of feeds, a bit each. lasting and timed are by scope: which feeds hold, without an end or until
 * until_ns (CLOCK_MONOTONIC). A feed whose bit is in none of them holds nobody, whatever its entries say.
 */
struct feed_words {
	__u32 lasting[2];
	__u32 timed[2];
	__u64 until_ns[MAX_FEEDS];
};
_Static_assert(sizeof(struct feed_words) == 16 + 8 * MAX_FEEDS, "feed_words");
_Static_assert(SCOPE_ALL == 0 && SCOPE_NEW == 1, "feed_words is by scope");

enum feed_state {
	FEED_FREE,
	FEED_LIVE,
	FEED_HALF, /* its first load, or its removal, is not finished: it holds nobody */
};

/* What people are told of a feed, and Go keeps. loaded: UNIX seconds. entries: as the last load left it. */
struct feed {
	__u8 name[32];
	__u8 by[32];
	__u64 loaded;
	__u32 entries;
	__u8 list;
	__u8 state;
	__u8 pad[2];
};
_Static_assert(sizeof(struct feed) == 80, "feed");
