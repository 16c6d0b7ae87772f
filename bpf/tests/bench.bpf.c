// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * The floors that the cost of the journey is held against, and the journey with a random source: a
 * test run repeats one frame, so the variety of a flood has to be made in the kernel. The floor of a
 * flood makes the same variety.
 */

#include "../limiter.bpf.c"

static __always_inline int parse_only(struct xdp_md *ctx, struct packet *p)
{
	p->segments = 1;
	p->bytes = bpf_xdp_get_buff_len(ctx);
	return parse_xdp(ctx, p);
}

SEC("xdp.frags")
int floor_parse(struct xdp_md *ctx)
{
	struct packet p = {};

	return parse_only(ctx, &p) ? XDP_PASS : XDP_DROP;
}

SEC("xdp.frags")
int floor_random(struct xdp_md *ctx)
{
	struct packet p = {};
	int verdict = parse_only(ctx, &p);

	p.src.word[0] = bpf_get_prandom_u32();
	return verdict || p.src.word[0] == 1 ? XDP_PASS : XDP_DROP;
}

SEC("xdp.frags")
int journey_random(struct xdp_md *ctx)
{
	struct counts *mine = own_counts();
	struct packet p = {};
	int verdict = parse_only(ctx, &p);

	p.src.word[0] = bpf_get_prandom_u32();
	return mine ? act_xdp(ctx, mine, &p, judge(mine, &p, verdict)) : XDP_PASS;
}
