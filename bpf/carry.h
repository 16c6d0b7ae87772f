/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* What carry.bpf.c and Go tell each other. Nothing of it outlives a command. */

#include <linux/types.h>

enum carry {
	CARRY_PAIRS = 8192,
	CARRY_WORDS = 1024,
	CARRY_KEY_BYTES = 64,
};

/* The keys of a value in the old map and in the new one. missing: the new one has none. */
struct carry_pair {
	__u8 from[CARRY_KEY_BYTES];
	__u8 to[CARRY_KEY_BYTES];
	__u64 missing;
};

/* Where a count lies in the old value and in the new one, in bytes, multiples of 8. */
struct carry_word {
	__u32 from;
	__u32 to;
};

struct carry_order {
	__u32 first;
	__u32 steps;
};
