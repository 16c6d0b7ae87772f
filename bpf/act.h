/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* An action in the words of the hook. The only place that knows them. */

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "abi.h"

static __always_inline int act_xdp(__u32 action)
{
	return action == ACTION_DROP ? XDP_DROP : XDP_PASS;
}

/* UNSPEC and not OK: programs and filters behind ours still have their say. */
static __always_inline int act_tc(__u32 action)
{
	return action == ACTION_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}
