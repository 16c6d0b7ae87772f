// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * The packet's journey: parse, lists, service, limits, act, account. See bpf/README.md.
 */

#include <stdbool.h>
#include <stddef.h>

#include "abi.h"
#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "chain.h"
#include "lists.h"
#include "service.h"
#include "limits.h"
#include "decide.h"
#include "account.h"
#include "act.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Frozen at load: this interface's slot of the counters, and whether frames have a link header. */
volatile const __u32 interface_slot = 0;
volatile const bool has_link_header = true;
volatile const bool may_have_frags = true;

#include "journey.h"

/* Names of values that Go needs, kept in the object's BTF though no variable has these types. */
const struct {
	enum abi abi;
	enum reason reason;
	enum action action;
	enum mode mode;
	enum on_table_full on_table_full;
	enum scope scope;
	enum limit_kind limit_kind;
	enum list_id list_id;
	enum source_flag source_flag;
} * names_for_go __attribute__((unused));

SEC("xdp.frags")
int synward_xdp(struct xdp_md *ctx)
{
	struct packet p = {};
	int verdict;

	p.segments = 1;
	p.bytes = may_have_frags ? bpf_xdp_get_buff_len(ctx) : ctx->data_end - ctx->data;
	verdict = parse_xdp(ctx, &p);
	if (p.kind == KIND_CHAIN)
		verdict = walk_chain_xdp(ctx, &p);
	return act_xdp(judge(&p, verdict));
}

SEC("tc")
int synward_tc(struct __sk_buff *ctx)
{
	struct packet p = {};
	int verdict;

	p.segments = ctx->gso_segs ?: 1;
	p.bytes = ctx->len;
	verdict = parse_skb(ctx, &p);
	if (p.kind == KIND_CHAIN)
		verdict = walk_chain_skb(ctx, &p);
	return act_tc(judge(&p, verdict));
}
