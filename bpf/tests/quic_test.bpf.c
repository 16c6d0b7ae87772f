// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * quic.h alone. quic_frame_* read one frame and leave what they made of it. quic_steps works off a
 * stretch of the steps map on virtual time, quic_flood counts random connections. quic_live_* do what
 * a limiter would with real clients.
 */

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>
#include <linux/bpf.h>

#include "../abi.h"
#include "../quic_recent.h"
#include "../chain.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* What the last frame was, for one test at a time. */
volatile struct quic_key frame_key = {};
volatile struct quic_datagram frame_datagram = {};
volatile __u32 frame_verdict = 0;

/* The names of the verdicts, kept in the object's BTF for Go. */
const struct {
	enum quic_shape shape;
	enum quic_verdict verdict;
	enum quic_key_word quic_key_word;
} *const names_for_go __attribute__((unused)) = 0;

#define NOT_UDP 0x1000 /* more than any shape */

/* What quic_parse_xdp and quic_parse_skb work out for themselves, for the test to see. */
static __always_inline int datagram_of(const struct packet *p, struct quic_datagram *d)
{
	if (p->kind != KIND_DATAGRAM)
		return NOT_UDP;
	*d = quic_payload(p, p->udp_bytes);
	return 0;
}

__noinline int read_xdp(struct xdp_md *ctx, struct packet *p)
{
	return p ? reread(ctx, p, load_xdp) : REASON_UNPARSED;
}

__noinline int read_skb(struct __sk_buff *ctx, struct packet *p)
{
	if (!p)
		return REASON_UNPARSED;
	return has_link_header ? reread(ctx, p, load_skb) :
				 reread_network(ctx, p, ctx->protocol, load_net);
}

static __always_inline int parse_xdp(struct xdp_md *ctx, struct quic_datagram *d,
				     struct quic_key *key)
{
	struct packet p = { .segments = 1, .bytes = bpf_xdp_get_buff_len(ctx) };
	int verdict = read_xdp(ctx, &p);

	if (!verdict && p.kind == KIND_CHAIN)
		verdict = walk_chain_xdp(ctx, &p);
	verdict = verdict ? NOT_UDP : datagram_of(&p, d);
	return verdict ?: quic_parse_xdp(ctx, &p, key);
}

static __always_inline int parse_skb(struct __sk_buff *ctx, struct quic_datagram *d,
				     struct quic_key *key)
{
	struct packet p = { .segments = ctx->gso_segs ?: 1, .bytes = ctx->len };
	int verdict = read_skb(ctx, &p);

	if (!verdict && p.kind == KIND_CHAIN)
		verdict = walk_chain_skb(ctx, &p);
	verdict = verdict ? NOT_UDP : datagram_of(&p, d);
	return verdict ?: quic_parse_skb(ctx, &p, key);
}

static __always_inline void leave(int verdict, const struct quic_datagram *d,
				  const struct quic_key *key)
{
	frame_verdict = verdict;
	frame_datagram.offset = d->offset;
	frame_datagram.bytes = d->bytes;
	frame_datagram.held = d->held;
	frame_key.connection = key->connection;
	frame_key.dcid = key->dcid;
	frame_key.bucket = key->bucket;
	frame_key.token = key->token;
}

SEC("xdp.frags")
int quic_frame_xdp(struct xdp_md *ctx)
{
	struct quic_datagram d = {};
	struct quic_key key = {};

	leave(parse_xdp(ctx, &d, &key), &d, &key);
	return XDP_PASS;
}

SEC("tc")
int quic_frame_skb(struct __sk_buff *ctx)
{
	struct quic_datagram d = {};
	struct quic_key key = {};

	leave(parse_skb(ctx, &d, &key), &d, &key);
	return 0;
}

#define MAX_STEPS (1 << 16)
/* How long a step waits for the other CPUs of its crew; then it goes on alone. */
#define MAX_SPINS 20000

enum quic_op {
	QUIC_SEE, /* and no more, as if it had been refused */
	QUIC_SEE_NOTE, /* and note what is new, as if it had been let through */
};

/* One datagram: written by the test, the verdict by the program. */
struct quic_step {
	struct quic_key key;
	__u64 now_ns;
	__u32 op;
	__u32 verdict;
};

const enum quic_op *ops_for_go __attribute__((unused));

/* What one run does. It is the packet, so that runs on several CPUs do not share it. */
struct quic_job {
	__u32 first;
	__u32 count;
	__u32 crew; /* above 1: that many CPUs take each step together */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_STEPS);
	__type(key, __u32);
	__type(value, struct quic_step);
} quic_steps SEC(".maps");

/* How many steps the whole crew has come to. */
volatile __u64 arrived = 0;

struct spin {
	__u64 until;
};

static long spin(__u32 index, void *ctx)
{
	const struct spin *s = ctx;

	return arrived >= s->until;
}

static __always_inline void meet(__u32 index, __u32 crew)
{
	struct spin s = { .until = ((__u64)index + 1) * crew };

	__sync_fetch_and_add(&arrived, 1);
	bpf_loop(MAX_SPINS, spin, &s, 0);
}

static __always_inline int judge_key(const struct quic_key *key, __u64 now_ns, __u32 op)
{
	int seen = quic_seen(key, now_ns);

	if (seen == QUIC_NEW && op == QUIC_SEE_NOTE)
		quic_note(key, now_ns);
	return seen;
}

static long take_step(__u32 index, void *ctx)
{
	const struct quic_job *job = ctx;
	__u32 at = job->first + index;
	struct quic_step *step = bpf_map_lookup_elem(&quic_steps, &at);
	struct quic_key key;

	if (!step)
		return 1;
	key = step->key;
	if (job->crew > 1)
		meet(index, job->crew);
	step->verdict = judge_key(&key, step->now_ns, step->op);
	return 0;
}

static __always_inline int read_job(struct xdp_md *ctx, struct quic_job *job)
{
	const struct quic_job *packet = (void *)(long)ctx->data;

	if ((void *)(packet + 1) > (void *)(long)ctx->data_end)
		return -1;
	*job = *packet;
	return 0;
}

SEC("xdp")
int quic_take_steps(struct xdp_md *ctx)
{
	struct quic_job job;

	if (read_job(ctx, &job))
		return XDP_ABORTED;
	return bpf_loop(job.count, take_step, &job, 0) == job.count ? XDP_PASS : XDP_ABORTED;
}

/* At what time the flood is, and how many of it were new. */
volatile __u64 flood_now_ns = 0;
volatile __u64 flood_new = 0;

static long flood_one(__u32 index, void *ctx)
{
	struct packet p = {
		.src = { 4, { bpf_get_prandom_u32() } },
		.dst = { 4, { 0x0a000001 } },
		.sport = bpf_get_prandom_u32(),
		.dport = 443,
	};
	struct quic_id id[2] = { { .bytes = 8 }, { .bytes = 8 } };
	const struct quic_secret *secret = quic_secret();
	struct quic_key key = {};

	if (!secret)
		return 1;
	id[0].word[0] = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	id[1].word[0] = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	quic_hash(&p, id, secret->key, &key);
	if (judge_key(&key, flood_now_ns, QUIC_SEE_NOTE) == QUIC_NEW)
		__sync_fetch_and_add(&flood_new, 1);
	return 0;
}

SEC("xdp")
int quic_flood(struct xdp_md *ctx)
{
	struct quic_job job;

	if (read_job(ctx, &job))
		return XDP_ABORTED;
	return bpf_loop(job.count, flood_one, NULL, 0) == job.count ? XDP_PASS : XDP_ABORTED;
}

/* What the live programs saw of datagrams that may ask; and how many of those they are to drop. */
volatile __u64 live_new = 0;
volatile __u64 live_known = 0;
volatile __u64 live_drop = 0;
/* New ones are refused: dropped and not noted. */
volatile __u32 live_refuse = 0;

/* Whether the packet is to be dropped. A drop of what was let through is a loss behind the limiter. */
static __always_inline bool live(int shape, const struct quic_key *key)
{
	__u64 now = bpf_ktime_get_coarse_ns();

	if (shape != QUIC_MAY_ASK)
		return false;
	if (quic_seen(key, now) == QUIC_KNOWN) {
		__sync_fetch_and_add(&live_known, 1);
	} else {
		__sync_fetch_and_add(&live_new, 1);
		if (live_refuse)
			return true;
		quic_note(key, now);
	}
	if (!live_drop)
		return false;
	__sync_fetch_and_add(&live_drop, -1);
	return true;
}

SEC("xdp.frags")
int quic_live_xdp(struct xdp_md *ctx)
{
	struct quic_datagram d = {};
	struct quic_key key = {};
	int shape = parse_xdp(ctx, &d, &key);

	return live(shape, &key) ? XDP_DROP : XDP_PASS;
}
