// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * The packet's journey: parse, lists, service, limits, act, account. See bpf/README.md.
 */

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>

#include "abi.h"
#include "frozen.h"
#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "reread.h"
#include "chain.h"
#include "quic_recent.h"
#include "lists.h"
#include "service.h"
#include "sets.h"
#include "limits.h"
#include "conns_look.h"
#include "many.h"
#include "conns_wait.h"
#include "decide.h"
#include "account.h"
#include "act.h"
#include "ban.h"
#include "challenge_proof.h"
#include "attempts.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#include "journey.h"
#include "owe.h"
#include "acked.h"
#include "sent.h"

/* Names of values that Go needs, kept in the object's BTF though no variable has these types. */
const struct {
	enum abi abi;
	enum reason reason;
	enum hash_key hash_key;
	enum action action;
	enum mode mode;
	enum on_table_full on_table_full;
	enum feature feature;
	enum scope scope;
	enum limit_kind limit_kind;
	enum limit_per limit_per;
	enum verdict verdict;
	enum interface_flag interface_flag;
	enum quic_key_word quic_key_word;
	enum limit_flag limit_flag;
	enum service_flag service_flag;
	enum listen listen;
	enum policy_text policy_text;
	enum list_id list_id;
	enum feed_state feed_state;
	enum source_flag source_flag;
	enum conn_size conn_size;
	enum conn_runner conn_runner;
	struct conn_line conn_line;
	enum proof_size proof_size;
	enum ban_size ban_size;
	enum ban_scope ban_scope;
} *const names_for_go __attribute__((unused)) = 0;

SEC("xdp.frags")
int synward_xdp(struct xdp_md *ctx)
{
	struct packet p = { .segments = 1, .bytes = bpf_xdp_get_buff_len(ctx) };
	struct counts *mine = own_counts();
	int verdict = parse_xdp(ctx, &p);

	if (verdict == REASON_UNPARSED && p.bytes > ctx->data_end - ctx->data)
		verdict = reread_xdp(ctx, &p);
	if (!verdict && p.kind == KIND_CHAIN)
		verdict = walk_chain_xdp(ctx, &p);
	if (features & FEATURE_QUIC && mine && !verdict && p.kind == KIND_DATAGRAM)
		p.quic = quic_parse_xdp(ctx, &p, &mine->quic);
	if ((PROVES || PROBES) && !verdict && may_be_proof(&p))
		p.kind = settled_kind(&p, proof_xdp(ctx, &p));
	return mine ? act_xdp(ctx, mine, &p, judge(mine, &p, verdict)) : XDP_PASS;
}

/*
 * How many packets of the wire one skb stands for. What a guest or a tap has merged says only how large its
 * segments are: within the length of the headers, taken for 120 bytes here, that tells how many.
 */
static __always_inline __u32 segments_of(const struct __sk_buff *ctx)
{
	__u32 size = ctx->gso_size, length = ctx->len;

	if (ctx->gso_segs || !size || length <= 120)
		return ctx->gso_segs ?: 1;
	return (length - 120 + size - 1) / size ?: 1;
}

SEC("tc")
int synward_tc(struct __sk_buff *ctx)
{
	struct packet p = { .segments = segments_of(ctx), .bytes = ctx->len };
	struct counts *mine = own_counts();
	int verdict = has_link_header ? parse_skb(ctx, &p) : reread_skb(ctx, &p);

	if (has_link_header && verdict == REASON_UNPARSED && p.bytes > ctx->data_end - ctx->data)
		verdict = reread_skb(ctx, &p);
	if (!verdict && p.kind == KIND_CHAIN)
		verdict = walk_chain_skb(ctx, &p);
	if (features & FEATURE_QUIC && mine && !verdict && p.kind == KIND_DATAGRAM)
		p.quic = quic_parse_skb(ctx, &p, &mine->quic);
	if ((PROVES || PROBES) && !verdict && may_be_proof(&p))
		p.kind = settled_kind(&p, proof_skb(ctx, &p));
	return mine ? act_tc(ctx, mine, &p, judge(mine, &p, verdict)) : TC_ACT_UNSPEC;
}

/* At egress, only while some limit counts what is sent. Drops nothing. */
SEC("tc")
int synward_out(struct __sk_buff *ctx)
{
	struct packet p = { .segments = 1, .bytes = ctx->len };
	int verdict = has_link_header ? parse_skb(ctx, &p) : reread_skb(ctx, &p);

	if (has_link_header && verdict == REASON_UNPARSED && p.bytes > ctx->data_end - ctx->data)
		verdict = reread_skb(ctx, &p);
	if (!verdict && p.kind == KIND_CHAIN)
		verdict = walk_chain_skb(ctx, &p);
	if (verdict == REASON_SELF_TEST)
		count_self_test(&p);
	if (!verdict && is_counted(&p))
		charge_sent(ctx, &p, wire_bytes(ctx, &p));
	return TC_ACT_UNSPEC;
}
