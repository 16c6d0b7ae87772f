// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"slices"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// reference is what a frame is by the RFCs and by what Linux takes for a packet: the second opinion
// that the program is held against. It shares nothing with the C code: bytes that a layer has read are
// cut off, and the rest goes down to the next.
type reference struct {
	reason  limiterReason // under_limit for a new connection: it still has to be judged
	refused bool
	source  []byte // 4 or 16 bytes; nil where the frame ends before it is known
	ports   [2]uint16
	why     string // which rule decided
}

func ends(reason limiterReason, why string) reference { return reference{reason: reason, why: why} }
func broken(why string) reference                     { return ends(limiterReasonREASON_UNPARSED, why) }
func refuses(reason limiterReason, why string) reference {
	return reference{reason: reason, refused: true, why: why}
}

func (r reference) from(source []byte) reference {
	r.source = source
	return r
}

func (r reference) isNew() bool    { return r.reason == limiterReasonREASON_UNDER_LIMIT }
func (r reference) isBroken() bool { return r.reason == limiterReasonREASON_UNPARSED }

// word reads 16 bits in network byte order.
func word(b []byte, at int) int { return int(binary.BigEndian.Uint16(b[at:])) }

// referEthernet reads a frame of an interface with a link header, as a program does that looks into UDP,
// or one that does not: the policies here have no service of UDP.
func referEthernet(frame []byte, udp bool) reference {
	if len(frame) < 14 {
		return broken("no link header")
	}
	return referTags(frame[12:], nil, udp)
}

// referTags reads what begins with an ethertype. ids are those of the tags that were taken off. A third
// tag is that of a VLAN device on a VLAN device, where it is judged, but for priority tags: Linux takes
// any number of them off without a device.
func referTags(b []byte, ids []int, udp bool) reference {
	if kind := word(b, 0); kind != tg.TPID8021Q && kind != tg.TPID8021AD {
		return referNetwork(kind, b[2:], udp)
	}
	if len(b) < 6 {
		return broken("tag cut off")
	}
	ids = append(ids, word(b, 2)&0xfff)
	if len(ids) < 3 {
		return referTags(b[4:], ids, udp)
	}
	if slices.Contains(ids, 0) {
		return refuses(limiterReasonREASON_MALFORMED, "third tag, with priority tags")
	}
	return broken("third tag")
}

func referNetwork(kind int, b []byte, udp bool) reference {
	switch kind {
	case tg.EtherTypeIPv4:
		return referIPv4(b, udp)
	case tg.EtherTypeIPv6:
		return referIPv6(b, udp)
	case tg.EtherTypeLocalExp:
		return ends(limiterReasonREASON_SELF_TEST, "self test")
	}
	return ends(limiterReasonREASON_NOT_IP, "no ethertype of IP")
}

// referIPv4 follows RFC 791. A total length of 0 is the rest of the buffer (BIG TCP).
func referIPv4(b []byte, udp bool) reference {
	if len(b) < 20 {
		return broken("IPv4 header cut off")
	}
	header, total := 4*int(b[0]&15), word(b, 2)
	if total == 0 {
		total = len(b)
	}
	switch {
	case b[0]>>4 != 4:
		return broken("IPv4 of another version")
	case header < 20:
		return broken("IPv4 header length below 20")
	case total < header:
		return broken("IPv4 total length below the header's")
	case total > len(b):
		return broken("IPv4 total length past the frame")
	}
	source, payload := b[12:16], b[header:total]
	if offset := 8 * (word(b, 6) & 0x1fff); offset > 0 {
		return referLater(b[9], offset).from(source)
	}
	return referTransport(b[9], payload, b[6]&0x20 != 0, udp).from(source)
}

// referIPv6 follows RFC 8200. A payload length of 0 is the rest of the buffer, as Linux takes it behind a
// hop-by-hop header and in BIG TCP.
func referIPv6(b []byte, udp bool) reference {
	if len(b) < 40 {
		return broken("IPv6 header cut off")
	}
	length := word(b, 4)
	if length == 0 {
		length = len(b) - 40
	}
	if b[0]>>4 != 6 {
		return broken("IPv6 of another version")
	}
	if length > len(b)-40 {
		return broken("IPv6 payload length past the frame")
	}
	return referChain(b[6], b[40:40+length], 8, false, udp).from(b[8:24])
}

func isChained(next byte) bool {
	return slices.Contains([]byte{tg.HopByHop, tg.Routing, tg.FragmentHdr, tg.AH, tg.DestOpts, tg.Mobility}, next)
}

// referChain reads a header of this number and what follows it, and walks at most left more extension
// headers. first: a fragment header said that more fragments follow, so the whole chain must be here (RFC
// 7112). A ninth header that is named is too many, also if the eighth runs past the end.
func referChain(next byte, b []byte, left int, first, udp bool) reference {
	if !isChained(next) {
		return referTransport(next, b, first, udp)
	}
	if left == 0 {
		return refuses(limiterReasonREASON_MALFORMED, "nine extension headers")
	}
	if len(b) < 8 {
		return referCut(first)
	}
	size := 8 * (int(b[1]) + 1)
	switch next {
	case tg.AH: // RFC 4302: in words of 4 bytes, less 2
		size = 4 * (int(b[1]) + 2)
	case tg.FragmentHdr:
		size = 8
		if offset := word(b, 2) &^ 7; offset > 0 {
			return referLater(b[0], offset)
		}
		first = first || b[3]&1 != 0
	}
	if size <= len(b) {
		return referChain(b[0], b[size:], left-1, first, udp)
	}
	if left == 1 && isChained(b[0]) {
		return refuses(limiterReasonREASON_MALFORMED, "ninth extension header past the end")
	}
	return referCut(first)
}

func referCut(first bool) reference {
	if first {
		return refuses(limiterReasonREASON_MALFORMED, "first fragment without the whole chain")
	}
	return broken("chain cut off")
}

// referLater: RFC 3128, a fragment at offset 8 can write over the flags of the first.
func referLater(next byte, offset int) reference {
	if next == tg.TCP && offset == 8 {
		return refuses(limiterReasonREASON_FRAGMENT, "TCP fragment at offset 8")
	}
	return ends(limiterReasonREASON_FRAGMENT, "later fragment")
}

func referTransport(proto byte, b []byte, first, udp bool) reference {
	switch {
	case proto == tg.UDP && udp && len(b) < 8:
		return broken("UDP header cut off")
	case proto != tg.TCP:
		return ends(limiterReasonREASON_NO_SERVICE, "no TCP")
	case len(b) < 20 && first: // RFC 1858
		return refuses(limiterReasonREASON_FRAGMENT, "tiny first fragment")
	case len(b) < 20:
		return broken("TCP header cut off")
	}
	return referTCP(b, first)
}

const whySYNACK = "SYN ACK"

// referTCP follows RFC 9293. A first fragment may leave TCP options to the next.
func referTCP(b []byte, first bool) reference {
	header, flags := 4*int(b[12]>>4), b[13]
	out := reference{ports: [2]uint16{uint16(word(b, 0)), uint16(word(b, 2))}}
	switch {
	case header < 20:
		return broken("TCP data offset below 20")
	case header > len(b) && !first:
		return broken("TCP data offset past the end")
	case flags&tg.SYNFlag == 0:
		out.reason, out.why = limiterReasonREASON_ESTABLISHED, "TCP without SYN"
	case flags&(tg.FIN|tg.RST) != 0:
		out.reason, out.refused, out.why = limiterReasonREASON_MALFORMED, true, "SYN with FIN or RST"
	case flags&tg.ACK != 0:
		out.reason, out.why = limiterReasonREASON_ESTABLISHED, whySYNACK
	default:
		out.reason, out.why = limiterReasonREASON_UNDER_LIMIT, "new connection"
	}
	return out
}

// runAhead is by how many bytes Program.Run makes a frame look longer than it is to a program without a
// link header: the Ethernet header that it needs.
const runAhead = 14

// referBare reads a frame as the program without a link header does. ok is false where the bytes that
// Program.Run adds make a difference.
func referBare(frame []byte, udp bool) (r reference, ok bool) {
	if len(frame) < 14 {
		return broken("no link header"), false
	}
	kind, packet := word(frame, 12), frame[14:]
	r = referNetwork(kind, packet, udp)
	ahead := referNetwork(kind, slices.Concat(packet, make([]byte, runAhead)), udp)
	return r, r.why == ahead.why
}
