/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What is settled when a program is loaded: the verifier knows these as constants and leaves out the rest.
 */

#include <stdbool.h>
#include <linux/types.h>

#include "abi.h"

/* This interface's slot of the counters, and whether its frames have a link header. */
volatile const __u32 interface_slot = 0;
volatile const bool has_link_header = true;

/* Whether the program's type may ask the coarse clock: tracing may not. */
volatile const bool may_ask_coarse_clock = true;

/* Whether answers may be sent from here; see INTERFACE_SILENT. */
volatile const bool may_send = true;

/*
 * Makes the compiler keep an address in a register: it would work it out anew from index and base at every
 * use, which are most of the instructions of a short path.
 */
#define KEEP(address) asm volatile("" : "+r"(address))

/* What some policy in force needs: FEATURE_ bits. */
volatile const __u32 features = FEATURE_ALL;

/*
 * Functions that begin with these call what not every kernel has: one that nobody calls is verified all the same,
 * as far as its code is not dead.
 */
#define CHALLENGES (features & FEATURE_CHALLENGE)
#define PROVES (features & FEATURE_PROVEN)
#define COUNTS_ACKED (features & FEATURE_ACKED)
#define PROBES (features & FEATURE_PROBE)

/* From this second of CLOCK_MONOTONIC on nothing is refused any more, only observed; 0: never. */
volatile const __u32 observe_after = 0;
