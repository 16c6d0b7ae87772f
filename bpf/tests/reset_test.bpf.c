// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* The answer to a refused SYN, with the parse stage before it and no policy: all to one port are refused. */

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>

/* SYNs to another port pass. 0: none is. */
volatile const __u16 refused_port = 0;

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "../parse.h"
#include "../reread.h"
#include "../chain.h"
#include "../reset.h"

char _license[] SEC("license") = "Dual BSD/GPL";

__noinline int parse_xdp(struct xdp_md *ctx, struct packet *p)
{
	int verdict;

	if (!p)
		return REASON_UNPARSED;
	verdict = parse_direct(ctx->data, ctx->data_end, p);
	if (verdict == REASON_UNPARSED && p->bytes > ctx->data_end - ctx->data)
		verdict = reread(ctx, p, load_xdp);
	return verdict;
}

__noinline int parse_tc(struct __sk_buff *ctx, struct packet *p)
{
	int verdict;

	if (!p)
		return REASON_UNPARSED;
	if (!has_link_header)
		return reread_network(ctx, p, ctx->protocol, load_net);
	verdict = parse_direct(ctx->data, ctx->data_end, p);
	if (verdict == REASON_UNPARSED && p->bytes > ctx->data_end - ctx->data)
		verdict = reread(ctx, p, load_skb);
	return verdict;
}

static __always_inline bool is_refused(const struct packet *p, int verdict)
{
	return !verdict && p->kind == KIND_NEW && (!refused_port || p->dport == refused_port);
}

SEC("xdp.frags")
int answer_xdp(struct xdp_md *ctx)
{
	struct packet p = { .segments = 1, .bytes = bpf_xdp_get_buff_len(ctx) };
	int verdict = parse_xdp(ctx, &p);

	if (!verdict && p.kind == KIND_CHAIN)
		verdict = walk_chain_xdp(ctx, &p);
	if (!is_refused(&p, verdict))
		return XDP_PASS;
	return reset_xdp(ctx, &p) ? XDP_TX : XDP_DROP;
}

SEC("tc")
int answer_tc(struct __sk_buff *ctx)
{
	struct packet p = { .segments = 1, .bytes = ctx->len };
	int verdict = parse_tc(ctx, &p);

	if (!verdict && p.kind == KIND_CHAIN)
		verdict = walk_chain_skb(ctx, &p);
	if (!is_refused(&p, verdict))
		return TC_ACT_UNSPEC;
	return reset_tc(ctx, &p);
}
