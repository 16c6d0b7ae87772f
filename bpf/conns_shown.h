/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Which sockets are counted, for `sources ADDR`: walks the storage of sockets, of all network namespaces, and writes
 * a struct conn_line for each that is counted. Changes nothing. What opens or closes meanwhile may be in it or not.
 */

#include "conns_held.h"
#include "conns_sock.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};

#pragma clang attribute pop

/* The service that a socket is counted under; none: SERVICE_IDS. */
__noinline int held_service(struct conn_held *held)
{
	if (!held)
		return SERVICE_IDS;
	for (__u32 i = 0; i < CONN_CLAIMS; i++) {
		if (i >= held->count)
			break;
		if (held_at(held, i)->limit < SERVICE_IDS)
			return held_at(held, i)->limit;
	}
	return SERVICE_IDS;
}

static __always_inline int show_socket(struct seq_file *seq, struct sock *sk,
				       struct conn_held *held)
{
	struct conn_line line = {};
	struct packet p = {};

	packet_of_sock(&p, &sk->__sk_common);
	line.since_ns = held->since_ns;
	line.remote = p.src;
	line.local = p.dst;
	line.remote_port = p.sport;
	line.local_port = p.dport;
	line.service = held_service(held);
	bpf_seq_write(seq, &line, sizeof(line));
	return 0;
}
