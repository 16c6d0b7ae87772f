// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* The cookie that answers a SYN, with the parse stage before it and no policy: all to one port are challenged. */

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>

/* SYNs to another port pass. 0: none does. */
volatile const __u16 challenged_port = 0;
/* Answer with what promised says, whoever listens: a test run has no listener. */
volatile const bool blind = false;

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "../abi.h"

volatile struct promise promised;
volatile __u32 verdicts[8];
/* What the kernel says of the last ACK that came in: 0 that its cookie is good. */
volatile __s64 checked;
volatile __u64 tick_ns = 4000000;

static __always_inline __u64 control_tick(void)
{
	return tick_ns;
}

#include "../parse.h"
#include "../reread.h"
#include "../chain.h"
#include "../challenge.h"

char _license[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct challenge);
} scratch SEC(".maps");

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

static __always_inline bool is_challenged(const struct packet *p, int verdict)
{
	return !verdict && p->kind == KIND_NEW && (!challenged_port || p->dport == challenged_port);
}

/* The kernel's own opinion of an ACK, by the other of its two helpers. */
static __always_inline void check_cookie(void *ctx, const struct packet *p, load_fn load)
{
	struct tcp_header tcp;

	if (load(ctx, p->l4_offset, &tcp, sizeof(tcp)) || !(tcp.flags & TCP_ACK))
		return;
	if (p->src.family == 4) {
		struct iphdr ip = { .saddr = p->src.word[0], .daddr = p->dst.word[0] };

		checked = bpf_tcp_raw_check_syncookie_ipv4(&ip, (void *)&tcp);
	} else {
		struct ipv6hdr ip = {};

		__builtin_memcpy(&ip.saddr, p->src.word, sizeof(ip.saddr));
		__builtin_memcpy(&ip.daddr, p->dst.word, sizeof(ip.daddr));
		checked = bpf_tcp_raw_check_syncookie_ipv6(&ip, (void *)&tcp);
	}
}

static __always_inline struct challenge *own_scratch(void)
{
	__u32 at = 0;

	return bpf_map_lookup_elem(&scratch, &at);
}

static __always_inline void take_promise(struct challenge *c)
{
	c->promise.window = promised.window;
	c->promise.wscale = promised.wscale;
	c->promise.options = promised.options;
	c->promise.sack = promised.sack;
	c->promise.scaling = promised.scaling;
}

SEC("xdp.frags")
int answer_xdp(struct xdp_md *ctx)
{
	struct packet p = { .segments = 1, .bytes = bpf_xdp_get_buff_len(ctx) };
	int verdict = parse_xdp(ctx, &p);
	struct challenge *c = own_scratch();
	int size;

	if (!verdict && p.kind == KIND_CHAIN)
		verdict = walk_chain_xdp(ctx, &p);
	if (!verdict && p.kind == KIND_ESTABLISHED && blind)
		check_cookie(ctx, &p, load_xdp);
	if (!c || !is_challenged(&p, verdict))
		return XDP_PASS;
	verdict = blind ? CHALLENGE_READY : find_listener_xdp(ctx, &p, c);
	__sync_fetch_and_add(&verdicts[verdict & 7], 1);
	if (verdict == CHALLENGE_STALE)
		return XDP_PASS;
	if (verdict != CHALLENGE_READY)
		return XDP_DROP;
	if (blind)
		take_promise(c);
	size = read_syn_xdp(ctx, &p, c);
	return size && challenge_xdp(ctx, &p, c, make_answer(&p, c, size)) ? XDP_TX : XDP_DROP;
}

SEC("tc")
int answer_tc(struct __sk_buff *ctx)
{
	struct packet p = { .segments = 1, .bytes = ctx->len };
	int verdict = parse_tc(ctx, &p);
	struct challenge *c = own_scratch();
	int size;

	if (!verdict && p.kind == KIND_CHAIN)
		verdict = walk_chain_skb(ctx, &p);
	if (!verdict && p.kind == KIND_ESTABLISHED && blind) {
		if (has_link_header)
			check_cookie(ctx, &p, load_skb);
		else
			check_cookie(ctx, &p, load_net);
	}
	if (!c || !is_challenged(&p, verdict))
		return TC_ACT_UNSPEC;
	verdict = blind ? CHALLENGE_READY : find_listener_skb(ctx, &p, c);
	__sync_fetch_and_add(&verdicts[verdict & 7], 1);
	if (verdict == CHALLENGE_STALE)
		return TC_ACT_UNSPEC;
	if (verdict != CHALLENGE_READY)
		return TC_ACT_SHOT;
	if (blind)
		take_promise(c);
	size = read_syn_skb(ctx, &p, c);
	if (!size || !challenge_skb(ctx, &p, c, make_answer(&p, c, size)))
		return TC_ACT_SHOT;
	return bpf_redirect(ctx->ifindex, 0);
}
