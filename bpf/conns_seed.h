/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Sockets that were open before: walked by `attach`, `apply` and whatever else adds a limit, one network
 * namespace at a time, each socket under its lock. The kernel shows listeners first, and a connection is one
 * that was accepted if somebody listens on its local port.
 */

#include "conns_state.h"

/* The slot whose limits are seeded, and whether what it does not count is given back. */
volatile const __u32 seed_slot = 0;
volatile const bool seed_prunes = false;

static __always_inline __u64 *listening_word(__u16 port)
{
	__u32 at = port >> 6;

	return bpf_map_lookup_elem(&conn_listening, &at);
}

static __always_inline bool is_open(__u8 state)
{
	return state == TCP_STATE_ESTABLISHED || state == TCP_STATE_FIN_WAIT1 ||
	       state == TCP_STATE_FIN_WAIT2 || state == TCP_STATE_CLOSE_WAIT ||
	       state == TCP_STATE_LAST_ACK || state == TCP_STATE_CLOSING;
}

static __always_inline int seed_open(struct tcp_sock *sk, const struct packet *p)
{
	struct conn_note *claims = note_of(CONN_SEED);
	struct conn_held *held;

	if (!claims)
		return 0;
	claims_of(claims, p, seed_slot, coarse_ns());
	held = bpf_sk_storage_get(&conn_sockets, sk, 0,
				  claims->count ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (!held) {
		if (claims->count)
			TALLY(unheld);
		return 0;
	}
	if (seed_prunes)
		held_prune(held, claims);
	held_add(held, claims);
	return 0;
}

static __always_inline int seed_socket(struct sock_common *skc)
{
	__u8 state = skc->skc_state;
	struct packet p = {};
	struct tcp_sock *sk;
	__u64 *word;

	word = listening_word(skc->skc_num);
	if (!word)
		return 0;
	if (state == TCP_STATE_LISTEN) {
		*word |= 1ULL << (skc->skc_num & 63);
		return 0;
	}
	if (!is_open(state) || !(*word >> (skc->skc_num & 63) & 1))
		return 0;
	sk = bpf_skc_to_tcp_sock(skc);
	if (!sk)
		return 0;
	packet_of_sock(&p, skc);
	return seed_open(sk, &p);
}
