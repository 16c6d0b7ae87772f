/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What the kernel will make of a handshake that is answered for it: what the listener and its network namespace
 * are set to. Read from the kernel's own structures by BTF (CO-RE), so that a setting that changes meanwhile is
 * seen with the next packet. Writes nothing.
 */

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define BY_BTF __attribute__((preserve_access_index))

struct netns_ipv4 {
	int sysctl_tcp_rmem[3];
	__u8 sysctl_tcp_syncookies;
	__u8 sysctl_tcp_timestamps;
	__u8 sysctl_tcp_window_scaling;
	__u8 sysctl_tcp_sack;
} BY_BTF;

struct net {
	struct netns_ipv4 ipv4;
} BY_BTF;

typedef struct {
	struct net *net;
} BY_BTF possible_net_t;

struct sock_common {
	unsigned char skc_reuseport : 1;
	possible_net_t skc_net;
} BY_BTF;

struct sock_reuseport {
	unsigned int synq_overflow_ts;
} BY_BTF;

struct sock {
	struct sock_common __sk_common;
	int sk_rcvbuf;
	__u8 sk_userlocks : 4;
	struct sock_reuseport *sk_reuseport_cb;
} BY_BTF;

struct inet_sock {
	struct sock sk;
} BY_BTF;

struct inet_connection_sock {
	struct inet_sock icsk_inet;
} BY_BTF;

struct tcp_options_received {
	int ts_recent_stamp;
} BY_BTF;

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	struct tcp_options_received rx_opt;
	__u32 window_clamp;
} BY_BTF;

struct request_sock {
	__u8 num_timeout : 7;
} BY_BTF;

struct inet_request_sock {
	struct request_sock req;
} BY_BTF;

struct tcp_request_sock {
	struct inet_request_sock req;
	__u32 snt_isn;
} BY_BTF;

/* include/net/sock.h: the size of the receive buffer was set by the program. */
#define SOCK_RCVBUF_LOCK 2

/* Cookies are good for two minutes after the last SYN; a client's ACK takes some of that (include/net/tcp.h). */
#define COOKIES_FOR_NS (110 * 1000000000ULL)

/*
 * The scale that tcp_select_initial_window() would choose, or a smaller one: then windows look smaller to the
 * client than they are. A larger one would have it send what has no room. Of a buffer that is fixed at most three
 * quarters are overhead.
 */
static __always_inline __u8 wscale_of(const struct tcp_sock *tcp, const struct netns_ipv4 *ipv4)
{
	const struct sock *sk = &tcp->inet_conn.icsk_inet.sk;
	__u32 space = ipv4->sysctl_tcp_rmem[2], fixed = sk->sk_rcvbuf, clamp = tcp->window_clamp;
	__u8 scale = 0;

	if (BPF_CORE_READ_BITFIELD(sk, sk_userlocks) & SOCK_RCVBUF_LOCK && fixed / 4 < space)
		space = fixed / 4;
	if (clamp && clamp < space)
		space = clamp;
#pragma unroll
	for (int n = 1; n <= 14; n++)
		scale += space >> (15 + n) != 0;
	return scale;
}

/* Far below what the listener takes at first, whatever its buffer: the kernel's first ACK tells the client more. */
static __always_inline __u16 window_of(const struct sock *sk)
{
	__u32 window = (__u32)sk->sk_rcvbuf / 8;

	return window > 65535 ? 65535 : window;
}

static __always_inline void read_promise(const struct tcp_sock *tcp, struct promise *to)
{
	const struct sock *sk = &tcp->inet_conn.icsk_inet.sk;
	const struct netns_ipv4 *ipv4 = &sk->__sk_common.skc_net.net->ipv4;

	to->window = window_of(sk);
	to->wscale = wscale_of(tcp, ipv4);
	to->options = ipv4->sysctl_tcp_timestamps == 2;
	to->sack = ipv4->sysctl_tcp_sack;
	to->scaling = ipv4->sysctl_tcp_window_scaling;
}

static __always_inline bool wants_cookies(const struct tcp_sock *tcp)
{
	return tcp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net->ipv4.sysctl_tcp_syncookies == 2;
}

/*
 * Whether the listener, or its group of SO_REUSEPORT, takes an ACK by its cookie (tcp_synq_no_recent_overflow()):
 * some SYN has reached it lately.
 */
static __always_inline bool takes_cookies(const struct tcp_sock *tcp, __u64 tick_ns)
{
	const struct sock *sk = &tcp->inet_conn.icsk_inet.sk;
	__u32 now = bpf_jiffies64(), last = tcp->rx_opt.ts_recent_stamp;
	const struct sock_reuseport *group;

	if (BPF_CORE_READ_BITFIELD(sk, __sk_common.skc_reuseport)) {
		group = sk->sk_reuseport_cb;
		if (group)
			last = group->synq_overflow_ts;
	}
	return (__u64)(now - last) * tick_ns < COOKIES_FOR_NS;
}
