/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Which service a packet is for, or the reason why no limit applies. There is one service, `default`:
 * all TCP ports.
 */

#include "packet.h"

#define SERVICE_DEFAULT 0

static __always_inline int service_judge(const struct packet *p)
{
	switch (p->kind) {
	case KIND_NEW:
		return REASON_NONE;
	case KIND_ESTABLISHED:
		return REASON_ESTABLISHED;
	case KIND_FRAGMENT:
		return REASON_FRAGMENT;
	default:
		return REASON_NO_SERVICE;
	}
}
