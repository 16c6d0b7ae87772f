// SPDX-License-Identifier: Apache-2.0

package trafficgen

import (
	"net/netip"
	"slices"
)

// EtherTypes and tag protocols.
const (
	EtherTypeIPv4     = 0x0800
	EtherTypeARP      = 0x0806
	EtherTypeIPv6     = 0x86dd
	EtherTypeLocalExp = 0x88b5 // IEEE Std 802, local experimental
	TPID8021Q         = 0x8100
	TPID8021AD        = 0x88a8
)

// IP protocol numbers, which are also the numbers of IPv6 extension headers.
const (
	HopByHop    = 0
	ICMPv4      = 1
	TCP         = 6
	UDP         = 17
	Routing     = 43
	FragmentHdr = 44
	AH          = 51
	ICMPv6      = 58
	NoNext      = 59
	DestOpts    = 60
	Mobility    = 135
)

// TCP flags.
const (
	FIN = 1 << iota
	SYNFlag
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// VLAN is one tag, outermost first in Packet.VLANs. The zero TPID is 802.1Q.
type VLAN struct {
	TPID uint16
	TCI  uint16 // priority (3 bits), drop eligible (1), VLAN id (12)
}

// Fragment places the transport bytes of a packet inside a larger datagram.
type Fragment struct {
	Offset uint16 // bytes, a multiple of 8
	More   bool   // more fragments follow
	ID     uint32 // 16 bits in IPv4
}

// ExtHeader is one IPv6 extension header.
type ExtHeader struct {
	Proto uint8
	// Len is the whole header in bytes, rounded up to a multiple of 8; 0 is the shortest (8, or 24 for AH). A
	// fragment header always has 8.
	Len int
	// Fragment is read for Proto FragmentHdr only; nil is an atomic fragment (offset 0, no more).
	Fragment *Fragment
}

// Packet describes one frame. The zero value of a field is the ordinary one; pointer fields overwrite what would
// otherwise be computed, so `IHL: new(uint8(4))` is a wrong header length and everything else still right. Src
// and Dst must be of one family. A Packet is a value: change a copy with With.
type Packet struct {
	NoLink         bool // no Ethernet header, as on wg, tun, ipip and gre
	SrcMAC, DstMAC [6]byte
	VLANs          []VLAN
	EtherType      uint16 // 0 follows from Src

	Src, Dst    netip.Addr // both invalid: Payload comes right after the link header
	TTL         uint8      // 0 is 64
	TOS         uint8      // type of service, traffic class
	DF          bool       // IPv4 only
	IPv4Options int        // bytes of NOP, rounded up to a multiple of 4, at most 40
	Ext         []ExtHeader
	// Fragment makes this a fragment: in IPv4 by its header, in IPv6 by a fragment header behind Ext. With an
	// offset no transport header is made, only Payload follows.
	Fragment *Fragment

	Proto            uint8 // transport; other than TCP, UDP, ICMPv4 and ICMPv6: only Payload follows
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	TCPFlags         uint8
	Window           uint16 // 0 is 64240
	TCPOptions       []byte // see MSS and its like; padded with NOP to a multiple of 4, at most 40
	ICMPType         uint8
	ICMPCode         uint8
	Payload          []byte
	// Transport replaces the transport header and Payload by these bytes, for a header that is cut short.
	Transport []byte
	// Trailer is how many zero bytes follow the IP packet, as Ethernet pads short frames.
	Trailer int

	Version    *uint8  // IP version field
	IHL        *uint8  // IPv4 header length field, in 4 bytes
	IPLength   *uint16 // IPv4 total length, IPv6 payload length
	IPChecksum *uint16
	NextHeader *uint8  // protocol field of IPv4, last next-header field of IPv6
	DataOffset *uint8  // TCP header length field, in 4 bytes
	UDPLength  *uint16 // UDP length field
	Checksum   *uint16 // TCP, UDP, ICMP
}

// Mutation changes one thing of a packet.
type Mutation func(*Packet)

// With returns a copy with the mutations made, in order. The original and its slices stay as they are.
func (p Packet) With(mutations ...Mutation) Packet {
	p.VLANs = slices.Clone(p.VLANs)
	p.Ext = slices.Clone(p.Ext)
	p.TCPOptions = slices.Clone(p.TCPOptions)
	p.Payload = slices.Clone(p.Payload)
	p.Transport = slices.Clone(p.Transport)
	for _, mutate := range mutations {
		mutate(&p)
	}
	return p
}

// Segment is a TCP segment with no options, with any flags.
func Segment(src, dst netip.AddrPort, flags uint8) Packet {
	return Packet{
		SrcMAC: [6]byte{2, 0, 0, 0, 0, 2}, DstMAC: [6]byte{2, 0, 0, 0, 0, 1},
		Src: src.Addr(), Dst: dst.Addr(), SrcPort: src.Port(), DstPort: dst.Port(),
		Proto: TCP, TCPFlags: flags, Seq: 0x10203040,
	}
}

// SYN is what a Linux client sends first: MSS, SACK, timestamps and window scale.
func SYN(src, dst netip.AddrPort) Packet {
	p := Segment(src, dst, SYNFlag)
	mss := uint16(1460)
	if dst.Addr().Is6() {
		mss = 1440
	}
	p.TCPOptions = slices.Concat(MSS(mss), SACKPermitted(), Timestamps(1000, 0), NOP(1), WindowScale(7))
	return p
}

// Datagram is a UDP datagram.
func Datagram(src, dst netip.AddrPort, payload []byte) Packet {
	p := Segment(src, dst, 0)
	p.Proto, p.Seq, p.Payload = UDP, 0, payload
	return p
}

// QUIC is a UDP datagram of 1200 bytes of payload that holds an Initial packet, see QUICInitial.
func QUIC(src, dst netip.AddrPort, version uint32, dcid []byte) Packet {
	return Datagram(src, dst, QUICInitial(version, dcid))
}

// Echo is a ping request with 56 bytes of payload.
func Echo(src, dst netip.Addr) Packet {
	p := Segment(netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0), 0)
	p.Proto, p.ICMPType, p.Seq = ICMPv4, 8, 0x00010001
	if src.Is6() {
		p.Proto, p.ICMPType = ICMPv6, 128
	}
	p.Payload = make([]byte, 56)
	return p
}

// ARP asks who has dst, an IPv4 address, and tells src.
func ARP(src, dst netip.Addr) Packet {
	p := Raw(EtherTypeARP, nil)
	p.DstMAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	s, d := src.As4(), dst.As4()
	p.Payload = slices.Concat(
		[]byte{0, 1, 8, 0, 6, 4, 0, 1}, // Ethernet, IPv4, their lengths, request
		p.SrcMAC[:], s[:], make([]byte, 6), d[:],
	)
	return p
}

// Raw is an Ethernet frame with any payload, filled up to the 60 bytes that an Ethernet needs.
func Raw(etherType uint16, payload []byte) Packet {
	return Packet{
		SrcMAC: [6]byte{2, 0, 0, 0, 0, 2}, DstMAC: [6]byte{2, 0, 0, 0, 0, 1},
		EtherType: etherType, Payload: payload, Trailer: max(0, 46-len(payload)),
	}
}
