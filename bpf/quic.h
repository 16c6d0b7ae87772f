/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * A UDP datagram of a QUIC service to: may ask for a new connection, or not; and to the key by which
 * quic_recent.h tells whether it does. Reads what RFC 8999 keeps the same in all versions, and knows no
 * service and no limit.
 *
 * What may ask is a datagram of 1200 bytes or more (a server discards an Initial in a smaller one: RFC
 * 9000 section 14.1) with a long header and a version other than 0, which is Version Negotiation and
 * sent by servers only. More is not asked of it, for each of these would be a way round on some server:
 * - the packet's type: an Initial may stand behind a 0-RTT packet in one datagram (section 12.2), and a
 *   server without 0-RTT skips that one and reads on;
 * - the version: a server may know one that is not known here, and its types may have other numbers, as
 *   those of version 2 do (RFC 9369 section 3.2); a server that does not know it answers all the same;
 * - the fixed bit: a client that comes back may clear it, in its first Initial too (RFC 9287 section 3.1);
 * - the length of the destination id, at least 8 in a first Initial (section 7.2): there are servers that
 *   take a shorter one if there is a token, true or not.
 * So 0-RTT and Handshake packets of 1200 bytes may ask as well. A client that sends them has been counted
 * for its Initial, and is known by it.
 */

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "hash.h"
#include "maps.h"
#include "packet.h"
#include "quic_slot.h"
#include "reread.h"

#define QUIC_MIN_BYTES 1200
#define QUIC_LONG_HEADER 0x80
#define QUIC_TYPE 0x30
#define QUIC_V2 0x6b3343cf
#define QUIC_V2_INITIAL 0x10
#define QUIC_ID_BYTES 20 /* the longest of versions 1 and 2; of a longer one the first are read */

/* Where the payload of a datagram lies. */
struct quic_datagram {
	__u32 offset; /* from where the stage's reader counts */
	__u32 bytes; /* as the receiver will see it */
	__u32 held; /* of these in this packet: fewer in a first fragment */
};

/* An id as it is loaded: what stands in front of it, its length, its bytes aligned, a few more. */
struct quic_id {
	__u8 front[7];
	__u8 bytes;
	__u64 word[3];
};

/*
 * The payload of a UDP datagram whose header, at p->l4_offset, names this length (host byte order).
 * What the kernel would drop has no bytes: shorter than its own header, longer than its packet. Over
 * IPv6 it takes length 0 for all that is there (RFC 2675; tried: 6.1 and 6.18 do, 7.3 does not). A
 * first fragment says how much there will be.
 */
static __always_inline struct quic_datagram quic_payload(const struct packet *p, __u32 udp_length)
{
	struct quic_datagram d = { .offset = p->l4_offset + sizeof(struct udp_header) };

	if (p->l4_bytes < sizeof(struct udp_header))
		return d;
	d.held = p->l4_bytes - sizeof(struct udp_header);
	if (!udp_length && p->src.family == 6)
		d.bytes = p->first_fragment ? 0xffff : d.held;
	else if (udp_length >= sizeof(struct udp_header) &&
		 (p->first_fragment || udp_length <= p->l4_bytes))
		d.bytes = udp_length - sizeof(struct udp_header);
	if (d.held > d.bytes)
		d.held = d.bytes;
	return d;
}

/*
 * Two folds a word. With one, a word with its top bit turned and a next one with two bits turned back
 * had the same hash under every key (tried), and here the sender chooses every word.
 */
static __always_inline __u64 quic_mix(__u64 h, __u64 word, const __u64 key[QUIC_KEYS])
{
	return hash_fold(hash_fold(h ^ word, key[QUIC_KEY_ODD1]), key[QUIC_KEY_ODD2]);
}

/* The bytes of an id that lie in one of its words; those behind it are not part of it. */
static __always_inline __u64 quic_id_word(const struct quic_id *id, __u32 word)
{
	__u32 bytes = id->bytes > word * 8 ? id->bytes - word * 8 : 0;
	__u32 most = word == 2 ? QUIC_ID_BYTES - 16 : 8;

	if (bytes >= most)
		bytes = most;
	if (!bytes)
		return 0;
	return bpf_be64_to_cpu(id->word[word]) & (~0ULL << (64 - 8 * bytes));
}

static __always_inline __u64 quic_mix_id(__u64 h, const struct quic_id *id,
					 const __u64 key[QUIC_KEYS])
{
	h = quic_mix(h, quic_id_word(id, 0), key);
	h = quic_mix(h, quic_id_word(id, 1), key);
	return quic_mix(h, quic_id_word(id, 2) | id->bytes, key);
}

static __always_inline __u64 quic_pair(__u32 first, __u32 second)
{
	return (__u64)second << 32 | first;
}

static __always_inline __u64 quic_mix_tuple(const struct packet *p, const __u64 key[QUIC_KEYS])
{
	const __u32 *src = p->src.word, *dst = p->dst.word;
	__u64 h;

	if (p->src.family == 4) {
		h = quic_mix(key[QUIC_KEY_IPV4], quic_pair(src[0], dst[0]), key);
	} else {
		h = quic_mix(key[QUIC_KEY_IPV6], quic_pair(src[0], src[1]), key);
		h = quic_mix(h, quic_pair(src[2], src[3]), key);
		h = quic_mix(h, quic_pair(dst[0], dst[1]), key);
		h = quic_mix(h, quic_pair(dst[2], dst[3]), key);
	}
	return quic_mix(h, quic_pair(p->sport, p->dport), key);
}

/* Ids in order: destination, source. A bucket holds all that belongs to one source id. */
static __always_inline void quic_hash(const struct packet *p, const struct quic_id id[2],
				      const __u64 key[QUIC_KEYS], struct quic_key *out)
{
	__u64 h = quic_mix_id(quic_mix_tuple(p, key), &id[1], key);
	__u64 connection = hash_fold(h, key[QUIC_KEY_ODD3]);

	out->connection = quic_connection(connection);
	out->bucket = connection & (QUIC_BUCKETS - 1);
	out->dcid = hash_fold(quic_mix_id(h, &id[0], key), key[QUIC_KEY_ODD3]) & QUIC_DCID;
}

/* The byte behind the source id is the token's length in an Initial only (RFC 9000 section 17.2.2). */
static __always_inline bool quic_token(const struct quic_id *first, __u8 behind)
{
	__u32 version = (__u32)first->front[3] << 24 | first->front[4] << 16 |
			first->front[5] << 8 | first->front[6];
	__u8 initial = version == QUIC_V2 ? QUIC_V2_INITIAL : 0;

	return behind && (first->front[2] & QUIC_TYPE) == initial;
}

/*
 * Fills key if the datagram may ask for a new connection. QUIC_CUT of a first fragment is its sender's
 * doing, for QUIC is not to be fragmented (RFC 9000 section 14): refuse it, or the rest brings the
 * header past every limit. Of others it means that the buffer is shorter than its headers say.
 *
 * Where one buffer holds several datagrams (UDP GRO, for TC and generic XDP), d is the first, and the
 * others go with it. Worst case: 54 of 1200 bytes, sent back to back from one port, pass as one.
 */
static __always_inline int quic_parse(void *ctx, const struct packet *p,
				      const struct quic_datagram *d,
				      const struct quic_secret *secret, struct quic_key *key,
				      load_fn load)
{
	struct quic_id id[2] = {};
	__u32 scid;

	if (d->bytes < QUIC_MIN_BYTES)
		return QUIC_OTHER;
	if (d->held < 6 + QUIC_ID_BYTES || load(ctx, d->offset, &id[0].front[2], 6 + QUIC_ID_BYTES))
		return QUIC_CUT;
	if (!(id[0].front[2] & QUIC_LONG_HEADER) ||
	    !(id[0].front[3] | id[0].front[4] | id[0].front[5] | id[0].front[6]))
		return QUIC_OTHER;
	scid = 6 + id[0].bytes;
	if (d->held < scid + 1 + sizeof(id[1].word) ||
	    load(ctx, d->offset + scid, &id[1].bytes, 1 + sizeof(id[1].word)))
		return QUIC_CUT;
	quic_hash(p, id, secret->key, key);
	key->token = id[1].bytes <= QUIC_ID_BYTES &&
		     quic_token(&id[0], ((__u8 *)id[1].word)[id[1].bytes]);
	return QUIC_MAY_ASK;
}

static __always_inline const struct quic_secret *quic_secret(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&quic_secrets, &zero);
}

/* key is filled where the answer is QUIC_MAY_ASK, and else left as it is. */
__noinline int quic_parse_xdp(struct xdp_md *ctx, const struct packet *p, struct quic_key *key)
{
	const struct quic_secret *secret = quic_secret();
	struct quic_datagram d;

	if (!p || !key || !secret)
		return QUIC_CUT;
	d = quic_payload(p, p->udp_bytes);
	return quic_parse(ctx, p, &d, secret, key, load_xdp);
}

__noinline int quic_parse_skb(struct __sk_buff *ctx, const struct packet *p, struct quic_key *key)
{
	const struct quic_secret *secret = quic_secret();
	struct quic_datagram d;

	if (!p || !key || !secret)
		return QUIC_CUT;
	d = quic_payload(p, p->udp_bytes);
	return has_link_header ? quic_parse(ctx, p, &d, secret, key, load_skb) :
				 quic_parse(ctx, p, &d, secret, key, load_net);
}
