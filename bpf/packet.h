/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* What the parse stage learns of a packet and the later stages read. */

#include "abi.h"

enum packet_kind {
	KIND_OTHER, /* IP, but nothing that a service counts */
	KIND_NEW, /* asks for a new connection */
	KIND_ESTABLISHED, /* TCP that asks for none */
	KIND_DATAGRAM, /* UDP, if some service takes it */
	KIND_FRAGMENT, /* a later fragment: no ports, no flags */
	KIND_CHAIN, /* IPv6 extension headers are still to be walked */
	KIND_PROOF, /* an ACK with a valid cookie, of no connection yet: its source is no forgery */
	KIND_OPENS, /* an ACK that ends a handshake, of a source that was probed lately */
	KIND_PROBED, /* an ACK that answers a probe: its source is no forgery, and was over a limit */
};

struct packet {
	struct addr src;
	struct addr dst;
	__u32 bytes; /* on the wire, link header included */
	__u32 segments; /* packets on the wire that this one buffer stands for */
	__u32 l3_offset; /* from where the stage's reader counts */
	__u32 l4_offset;
	__u32 l4_bytes; /* what the IP header says is left from l4_offset on */
	__u16 sport; /* host byte order; 0 where there are none */
	__u16 dport;
	__u8 kind;
	__u8 proto; /* of the header at l4_offset */
	__u8 first_fragment; /* of a packet of several: its headers must not be cut off */
	__u8 quic; /* what a datagram would be to a QUIC service: enum quic_shape */
	__u16 udp_bytes; /* what the UDP header says, itself included */
	__u8 slot; /* plus 1, of the policy that judges it: read once, or a flip may come in between */
	__u8 tcp_flags; /* where ACKs may be proof */
};

enum quic_shape {
	QUIC_OTHER, /* asks for nothing */
	QUIC_MAY_ASK,
	QUIC_CUT, /* of a datagram that may ask, what has to be read is not in this packet */
};

/* A stage's answer: REASON_NONE goes on to the next stage, anything else ends the journey. */
#define REFUSED VERDICT_REFUSED
#define REFUSE(reason) ((reason) | REFUSED)
#define VERDICT_REASON(verdict) ((verdict)&0xff)
#define VERDICT_ACTION(verdict) ((verdict) >> VERDICT_ACTION_SHIFT & 7)
#define VERDICT_LIMIT(verdict) ((verdict) >> VERDICT_LIMIT_SHIFT)
