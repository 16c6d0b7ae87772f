// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * The floors that the cost of the journey is held against, and the journey with a random source: a
 * test run repeats one frame, so the variety of a flood has to be made in the kernel. The floor of a
 * flood makes the same variety.
 */

#include "../limiter.bpf.c"

#define DRAWN (1 << 20)

/* Sources that Go has drawn, in the order of their turn, which a cache foresees, unlike what is looked up by them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DRAWN);
	__type(key, __u32);
	__type(value, __be32);
} drawn SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} turn SEC(".maps");

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

static __always_inline __be32 next_drawn(void)
{
	__u32 zero = 0, at;
	__u32 *next = bpf_map_lookup_elem(&turn, &zero);
	__be32 *source;

	if (!next)
		return 0;
	at = (*next)++ % DRAWN;
	source = bpf_map_lookup_elem(&drawn, &at);
	return source ? *source : 0;
}

SEC("xdp.frags")
int floor_drawn(struct xdp_md *ctx)
{
	struct packet p = {};
	int verdict = parse_only(ctx, &p);

	p.src.word[0] = next_drawn();
	return verdict || p.src.word[0] == 1 ? XDP_PASS : XDP_DROP;
}

SEC("xdp.frags")
int journey_drawn(struct xdp_md *ctx)
{
	struct counts *mine = own_counts();
	struct packet p = {};
	int verdict = parse_only(ctx, &p);

	p.src.word[0] = next_drawn();
	return mine ? act_xdp(ctx, mine, &p, judge(mine, &p, verdict)) : XDP_PASS;
}
