/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * State changes of sockets: a handshake that ended, a connection that closed. The kernel makes them under the
 * socket's lock. Both copies of the program see each of them; who comes second finds it done.
 */

#include "conns_held.h"
#include "conns_sock.h"

static __always_inline struct conn_held *held_of(struct sock *sk, __u64 flags)
{
	return bpf_sk_storage_get(&conn_sockets, sk, 0, flags);
}

/* Who completes a handshake has shown that the address is his. Full: whoever has not done so for longest goes. */
static __always_inline void note_verified(const struct packet *p)
{
	const struct policy *policy = policy_at(active_slot());
	__u64 now = coarse_ns();
	struct addr source;

	mask_addr(&source, &p->src, policy->mask4, policy->mask6);
	bpf_map_update_elem(&verified, &source, &now, BPF_ANY);
}

/* Takes what the gate has reserved for the connection of p. False: it did not, or the other copy has it. */
static __always_inline bool note_take(struct conn_note *note)
{
	__u64 token = *(volatile __u64 *)&note->token;

	if (!token || __sync_val_compare_and_swap(&note->token, token, 0) != token)
		return false;
	note->consumed = token;
	return true;
}

/* No memory for the storage: it cannot be given back at the end, so it is not counted. */
static __always_inline void open_by_note(struct sock *sk, struct conn_note *note)
{
	struct conn_held *held;

	if (!note->count)
		return;
	held = held_of(sk, BPF_SK_STORAGE_GET_F_CREATE);
	if (held) {
		held_from_note(held, note);
		TALLY(opened);
		return;
	}
	claims_give(note, note->count);
	TALLY(unheld);
}

/* The gate was not asked, for it was just being attached, or the socket was busy when the ACK came. */
static __always_inline void open_late(struct sock *sk, const struct packet *p)
{
	struct conn_note *claims = note_of(conns_runner);
	struct conn_held *held;

	if (!claims)
		return;
	claims_of(claims, p, active_slot(), coarse_ns());
	if (!claims->count)
		return;
	held = held_of(sk, BPF_SK_STORAGE_GET_F_CREATE);
	if (!held) {
		TALLY(unheld);
		return;
	}
	held_add(held, claims);
	TALLY(late);
}

static __always_inline void state_opened(struct sock *sk)
{
	struct conn_note *note = note_of(CONN_GATE);
	struct packet p = {};

	if (!note || held_counts(held_of(sk, 0)))
		return;
	packet_of_sock(&p, &sk->__sk_common);
	/* Owned: a task works off what came while it had the socket, and the note may change under it. */
	if (sk->sk_lock.owned || !note_is_of(note, &p)) {
		open_late(sk, &p);
		return;
	}
	if (note_take(note)) {
		open_by_note(sk, note);
		note_verified(&p);
	} else if (note->consumed != note->last) {
		open_late(sk, &p);
	}
}

static __always_inline void state_closed(struct sock *sk)
{
	struct conn_held *held = held_of(sk, 0);

	if (held_counts(held))
		held_release(held);
}
