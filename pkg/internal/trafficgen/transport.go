// SPDX-License-Identifier: Apache-2.0

package trafficgen

import "slices"

// QUIC versions, for QUICInitial.
const (
	QUICv1 = 0x00000001 // RFC 9000
	QUICv2 = 0x6b3343cf // RFC 9369
)

// quicDatagram is how long a client makes a datagram that holds an Initial (RFC 9000 section 14.1), in bytes.
const quicDatagram = 1200

// transport builds what follows the IP headers.
func (p Packet) transport() []byte {
	if p.Transport != nil {
		return p.Transport
	}
	if p.Fragment != nil && p.Fragment.Offset > 0 {
		return p.Payload
	}
	switch p.Proto {
	case TCP:
		return p.tcp()
	case UDP:
		return p.udp()
	case ICMPv4, ICMPv6:
		return p.icmp()
	}
	return p.Payload
}

func (p Packet) tcp() []byte {
	h := make([]byte, 20, 60+len(p.Payload))
	h = append(h, p.TCPOptions...)
	for len(h)%4 != 0 {
		h = append(h, 1)
	}
	be.PutUint16(h, p.SrcPort)
	be.PutUint16(h[2:], p.DstPort)
	be.PutUint32(h[4:], p.Seq)
	be.PutUint32(h[8:], p.Ack)
	h[12] = given(p.DataOffset, uint8(len(h)/4)) << 4
	h[13] = p.TCPFlags
	be.PutUint16(h[14:], orElse(p.Window, 64240))
	b := append(h, p.Payload...)
	be.PutUint16(b[16:], given(p.Checksum, fold(p.sum(b))))
	return b
}

func (p Packet) udp() []byte {
	b := append(make([]byte, 8, 8+len(p.Payload)), p.Payload...)
	be.PutUint16(b, p.SrcPort)
	be.PutUint16(b[2:], p.DstPort)
	be.PutUint16(b[4:], given(p.UDPLength, uint16(len(b))))
	// Zero would mean "no checksum" (RFC 768).
	be.PutUint16(b[6:], given(p.Checksum, orElse(fold(p.sum(b)), 0xffff)))
	return b
}

func (p Packet) icmp() []byte {
	b := append(make([]byte, 8, 8+len(p.Payload)), p.Payload...)
	b[0], b[1] = p.ICMPType, p.ICMPCode
	be.PutUint32(b[4:], p.Seq)
	total := sum(b)
	if p.Proto == ICMPv6 {
		total = p.sum(b)
	}
	be.PutUint16(b[2:], given(p.Checksum, fold(total)))
	return b
}

// sum is that of the transport bytes and the pseudo header.
func (p Packet) sum(b []byte) uint32 {
	return pseudo(p.Src, p.Dst, p.Proto, len(b)) + sum(b)
}

// QUICInitial is the payload of a client's first datagram: a long header of type Initial with this destination
// connection id (at most 20 bytes), no token, filled up to 1200 bytes. It is not encrypted, so no server can
// answer it, but it has the shape by which Initials are told.
func QUICInitial(version uint32, dcid []byte) []byte {
	first := byte(0xc3) // long header, fixed bit, Initial, packet number of 4 bytes
	if version == QUICv2 {
		first |= 0x10
	}
	b := be.AppendUint32([]byte{first}, version)
	b = append(b, uint8(len(dcid)))
	b = append(b, dcid...)
	b = append(b, 4, 0xc0, 0xff, 0xee, 0x01) // source connection id
	b = append(b, 0)                         // no token
	rest := quicDatagram - len(b) - 2
	b = be.AppendUint16(b, 0x4000|uint16(rest)) // a variable-length integer of two bytes
	return slices.Concat(b, make([]byte, rest))
}
