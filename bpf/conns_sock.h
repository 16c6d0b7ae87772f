/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * A kernel socket as a packet of its connection. The fields are found by name in the running kernel (CO-RE), so only
 * those that are read stand here.
 */

#include "packet.h"

#define TCP_STATE_ESTABLISHED 1
#define TCP_STATE_SYN_RECV 3
#define TCP_STATE_FIN_WAIT1 4
#define TCP_STATE_FIN_WAIT2 5
#define TCP_STATE_CLOSE 7
#define TCP_STATE_CLOSE_WAIT 8
#define TCP_STATE_LAST_ACK 9
#define TCP_STATE_LISTEN 10
#define TCP_STATE_CLOSING 11

#define FAMILY_IPV4 2
#define FAMILY_IPV6 10

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr___kernel {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	struct in6_addr___kernel skc_v6_daddr;
	struct in6_addr___kernel skc_v6_rcv_saddr;
};

typedef struct {
	int owned;
} socket_lock_t;

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	__u16 sk_protocol;
};

struct tcp_sock {
};

struct bpf_iter_meta;

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

#pragma clang attribute pop

static __always_inline bool is_mapped(const struct addr *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);
}

static __always_inline void unmap(struct addr *a)
{
	a->family = 6;
	if (!is_mapped(a))
		return;
	a->family = 4;
	a->word[0] = a->word[3];
	a->word[2] = a->word[3] = 0;
}

/* The connection as its SYN came in. An IPv4 client of an IPv6 socket is an IPv4 client. */
static __always_inline void packet_of_sock(struct packet *p, const struct sock_common *sk)
{
	if (sk->skc_family == FAMILY_IPV4) {
		p->src.family = p->dst.family = 4;
		p->src.word[0] = sk->skc_daddr;
		p->dst.word[0] = sk->skc_rcv_saddr;
	} else {
		for (int i = 0; i < 4; i++) {
			p->src.word[i] = sk->skc_v6_daddr.in6_u.u6_addr32[i];
			p->dst.word[i] = sk->skc_v6_rcv_saddr.in6_u.u6_addr32[i];
		}
		unmap(&p->src);
		unmap(&p->dst);
	}
	p->sport = bpf_ntohs(sk->skc_dport);
	p->dport = sk->skc_num;
	p->kind = KIND_NEW;
	p->proto = IPPROTO_TCP;
	p->segments = 1;
}
