/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Which service a packet is for, or the reason why no limit applies. The most specific wins: what that
 * is was worked out when the policy was compiled, so that here it is one look-up by port, and one by
 * local address only where the port's answer depends on it.
 */

#include "maps.h"
#include <linux/in.h>
#include <bpf/bpf_endian.h>

#include "frozen.h"
#include "packet.h"

#define LOCAL_SCOPE_BITS 32
#define LOCAL_BITS(family) ((family) == 4 ? 32 : 128)

/* CLOCK_MONOTONIC, to a tick where that is to be had. */
static __always_inline __u64 coarse_ns(void)
{
	return may_ask_coarse_clock ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns();
}

/* The slot whose policy is in force; see struct control_words. */
static __always_inline __u32 active_slot(void)
{
	__u64 word = *(volatile __u64 *)&control.word;
	__u64 deadline = word >> 32;

	if (deadline && coarse_ns() >= deadline * 1000000000ULL)
		word >>= 16;
	return word & (POLICY_SLOTS - 1);
}

/* The slot that comes into force if nobody confirms the one that is; POLICY_SLOTS: none does. */
static __always_inline __u32 fallback_slot(void)
{
	__u64 word = *(volatile __u64 *)&control.word;

	return word >> 32 ? word >> 16 & (POLICY_SLOTS - 1) : POLICY_SLOTS;
}

/* The slot that judges this packet: the one in force when it was first asked for. */
static __always_inline __u32 slot_of(struct packet *p)
{
	if (!p->slot)
		p->slot = active_slot() + 1;
	return (p->slot - 1) & (POLICY_SLOTS - 1);
}

static __always_inline const struct policy *policy_at(__u32 slot)
{
	const struct policy *policy = &control.policies[slot & (POLICY_SLOTS - 1)];

	KEEP(policy);
	return policy;
}

/* A slot is in the upper half of a scope, a class of ports in the lower. Few ports come here. */
__noinline __u32 listen_by_local(const struct packet *p, __u32 class, __u32 slot)
{
	struct scoped_key key = {};
	__u64 *listen;

	if (!p)
		return 0;
	key.prefixlen = LOCAL_SCOPE_BITS + 32 + LOCAL_BITS(p->dst.family);
	key.scope = slot << 16 | class;
	key.addr = p->dst;
	listen = bpf_map_lookup_elem(&locals, &key);
	return listen ? *listen : 0;
}

/* What listens where the packet goes: LISTEN_SERVICE and LISTEN_QUIC, 0 for nothing. */
static __always_inline __u32 listen_of(const struct packet *p, __u32 slot)
{
	__u32 at = p->dport, listen;

	/* Then there is one service, all TCP ports, and nothing but a TCP SYN comes here. */
	if (!(features & FEATURE_PORTS))
		return 1;
	if (features & FEATURE_UDP && p->proto != IPPROTO_TCP)
		at += LISTEN_PORTS;
	listen = tables.ports[slot & (POLICY_SLOTS - 1)].listen[at];
	if (features & FEATURE_LOCAL && listen & LISTEN_CLASS)
		listen = listen_by_local(p, listen & ~LISTEN_CLASS, slot);
	return listen;
}

static __always_inline const struct service *service_in(__u32 slot, __u32 place)
{
	__u32 at = (slot * MAX_SERVICES + place) & (POLICY_SLOTS * MAX_SERVICES - 1);
	const struct service *s = &tables.services[at];

	KEEP(s);
	return s;
}

static __always_inline const struct service *service_at(__u32 slot, __u32 listen)
{
	if (!(features & FEATURE_PORTS))
		return service_in(slot, 0);
	return listen ? service_in(slot, (listen & LISTEN_SERVICE) - 1) : NULL;
}

static __always_inline const struct limit *limit_in(__u32 slot, __u32 place)
{
	__u32 at = (slot * MAX_LIMITS + place) & (POLICY_SLOTS * MAX_LIMITS - 1);
	const struct limit *l = &tables.limits[at];

	KEEP(l);
	return l;
}

/* What needs no service to be judged: the reason, or REASON_NONE where one must be found. */
static __always_inline int service_judge(const struct packet *p)
{
	if (p->kind == KIND_NEW || (features & FEATURE_PROVEN && p->kind == KIND_PROOF) ||
	    (features & FEATURE_PROBE && p->kind == KIND_PROBED))
		return REASON_NONE;
	if (p->kind == KIND_ESTABLISHED)
		return features & FEATURE_VOLUME ? REASON_NONE : REASON_ESTABLISHED;
	if (p->kind == KIND_DATAGRAM && features & FEATURE_UDP)
		return REASON_NONE;
	return p->kind == KIND_FRAGMENT ? REASON_FRAGMENT : REASON_NO_SERVICE;
}
