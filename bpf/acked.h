/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What a client has proved that it downloads, into strikes: bytes that it acknowledged, on a connection that it
 * opened. They charge a meter of their own of each limit of bytes_out that bans. What is sent to an address that
 * somebody else has named (datagrams, SYN-ACKs, data that nobody acknowledges) never comes here.
 *
 * Nothing is counted of a packet whose socket is not known: forwarded, or of a container behind a router.
 */

#include "ban.h"
#include "owe.h"

/* The most that is charged at once; the rest is with the next packet. What a cost can be multiplied by. */
#define ACKED_AT_ONCE (1 << 20)

#define STREAM_SOCKET 1

/* Of a connection of which nothing will ever be charged. */
#define ACKED_NEVER (~0ULL)

/*
 * p is turned round. Behind DNAT the local port is another; who the client is must be sure. KEEP: or the compiler
 * chooses between two places in the socket, and a verifier wants its fields by constant offsets.
 */
static __always_inline bool is_of_client(const struct bpf_sock *sk, const struct packet *p)
{
	__u32 ip4 = sk->dst_ip4, first = sk->dst_ip6[0], second = sk->dst_ip6[1];
	__u32 third = sk->dst_ip6[2], last = sk->dst_ip6[3];

	KEEP(ip4);
	KEEP(first);
	if (bpf_ntohs(sk->dst_port) != p->sport)
		return false;
	if (p->src.family == 4)
		return ip4 == p->src.word[0];
	return first == p->src.word[0] && second == p->src.word[1] && third == p->src.word[2] &&
	       last == p->src.word[3];
}

/* A raw socket may say that it is TCP, and is none. */
static __always_inline bool is_connection(const struct bpf_sock *sk, const struct packet *p)
{
	return sk->type == STREAM_SOCKET && sk->state != BPF_TCP_LISTEN &&
	       sk->state != BPF_TCP_SYN_SENT && is_of_client(sk, p);
}

/*
 * Under another policy it begins anew: what was acknowledged before it does not count. Worst case of two CPUs: what
 * was acknowledged between their looks is not charged, or with the next packet.
 */
static __always_inline __u32 charge_once(struct acked *held, __u64 acked, __u32 generation)
{
	__u64 bytes = *(volatile __u64 *)&held->bytes, next = acked;

	if (held->generation != generation) {
		held->generation = generation;
		if (bytes != ACKED_NEVER)
			held->bytes = acked;
		return 0;
	}
	if (acked <= bytes)
		return 0;
	if (acked - bytes > ACKED_AT_ONCE)
		next = bytes + ACKED_AT_ONCE;
	if (__sync_val_compare_and_swap(&held->bytes, bytes, next) != bytes)
		return 0;
	return next - bytes;
}

/*
 * What was acknowledged since the last packet of p's connection. The kernel counts its own SYN with those bytes: a
 * socket that is seen for the first time with more than none was opened by this host, or before anybody looked.
 */
__noinline int newly_acked(struct __sk_buff *ctx, const struct packet *p, __u32 generation)
{
	struct acked fresh = { .generation = generation };
	struct bpf_sock *sk = ctx->sk;
	struct bpf_tcp_sock *tcp;
	struct acked *held;

	if (!COUNTS_ACKED || !p || p->proto != IPPROTO_TCP || !sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	if (!sk || !is_connection(sk, p))
		return 0;
	tcp = bpf_tcp_sock(sk);
	if (!tcp)
		return 0;
	if (tcp->bytes_acked)
		fresh.bytes = ACKED_NEVER;
	held = bpf_sk_storage_get(&acked_sockets, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	return held ? charge_once(held, tcp->bytes_acked, generation) : 0;
}

/* Whether the source is over now. Not for another's debt: then its slot is borrowed, and full. */
__noinline int acked_is_over(const struct limit *second, const struct packet *p, __u64 now,
			     __u32 bytes)
{
	__u64 hash;

	if (!COUNTS_ACKED || !second || !p)
		return 0;
	hash = hash_key(second, p);
	owe_meter(second, hash, now, owe_cost(second, bytes));
	return meter_look(second, hash, now, 1) == METER_OVER;
}

/* Of two CPUs that see it at once one strikes. */
static __always_inline bool is_due(struct striker *s, __u64 every_ms, __u64 now_ms)
{
	__u64 last = *(volatile __u64 *)&s->over_ms;

	if (last && (__s64)(now_ms - last) < (__s64)every_ms)
		return false;
	return __sync_val_compare_and_swap(&s->over_ms, last, now_ms) == last;
}

/* As strike in ban.h: 1 where a ban is due. Who stays over strikes once a period of the limit. */
__noinline int strike_by_acked(const struct packet *p, __u32 slot_and_limit, __u64 now)
{
	struct ban_tally *tally = own_tally();
	struct strike_try t = {};
	struct ban_term *terms;

	if (!COUNTS_ACKED || !p || !tally ||
	    (observe_after && now >= observe_after * 1000000000ULL))
		return 0;
	terms = bpf_map_lookup_elem(&ban_terms, &slot_and_limit);
	if (!terms)
		return 0;
	t.now_ms = now / MILLISECOND_NS;
	t.of = strikes_of(p, slot_and_limit & 0xffff);
	if (!t.of || !is_due(t.of, terms->every_ms, t.now_ms))
		return 0;
	tally->strikes++;
	t.within_ms = terms->within_ms;
	t.after = terms->after;
	bpf_loop(STRIKE_TRIES, strike_step, &t, 0);
	return t.due;
}
