// SPDX-License-Identifier: Apache-2.0

package trafficgen

import (
	"encoding/binary"
	"slices"
)

// From changes the source port.
func From(port uint16) Mutation { return func(p *Packet) { p.SrcPort = port } }

// MACs sets both hardware addresses; an address of another length than 6 panics.
func MACs(src, dst []byte) Mutation {
	return func(p *Packet) { p.SrcMAC, p.DstMAC = [6]byte(src), [6]byte(dst) }
}

// Tagged puts VLAN tags with these protocols in front, outermost first; the ids are 100, 101 and so on.
func Tagged(tpids ...uint16) Mutation {
	return func(p *Packet) {
		p.VLANs = nil
		for i, tpid := range tpids {
			p.VLANs = append(p.VLANs, VLAN{TPID: tpid, TCI: uint16(100 + i)})
		}
	}
}

// WithoutLink takes the Ethernet header away.
func WithoutLink() Mutation { return func(p *Packet) { p.NoLink = true } }

// Flags sets the TCP flags.
func Flags(flags uint8) Mutation { return func(p *Packet) { p.TCPFlags = flags } }

// Behind puts n copies of an IPv6 extension header behind those that are there.
func Behind(n int, header ExtHeader) Mutation {
	return func(p *Packet) { p.Ext = append(p.Ext, slices.Repeat([]ExtHeader{header}, n)...) }
}

// Fragmented makes the packet a fragment.
func Fragmented(offset uint16, more bool) Mutation {
	return func(p *Packet) { p.Fragment = &Fragment{Offset: offset, More: more, ID: 0x1234} }
}

// Cut keeps the first n bytes of the transport header and payload and makes the lengths agree with that.
func Cut(n int) Mutation {
	return func(p *Packet) { p.Transport = slices.Clone(p.transport()[:n]) }
}

// Split returns the packet in two fragments, the first with n bytes of the transport header and payload; n must be
// a multiple of 8. The checksum is that of the whole, so a kernel that puts them together takes it.
func (p Packet) Split(n int) (first, second Packet) {
	whole := p.transport()
	first, second = p.With(Fragmented(0, true)), p.With(Fragmented(uint16(n), false))
	first.Transport, second.Transport = slices.Clone(whole[:n]), slices.Clone(whole[n:])
	return first, second
}

// NOP is n TCP no-operation options.
func NOP(n int) []byte { return slices.Repeat([]byte{1}, n) }

// MSS is the TCP maximum segment size option.
func MSS(mss uint16) []byte { return binary.BigEndian.AppendUint16([]byte{2, 4}, mss) }

// WindowScale is the TCP window scale option.
func WindowScale(shift uint8) []byte { return []byte{3, 3, shift} }

// SACKPermitted is the TCP option of that name.
func SACKPermitted() []byte { return []byte{4, 2} }

// Timestamps is the TCP timestamps option.
func Timestamps(value, echo uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{8, 10}, value)
	return binary.BigEndian.AppendUint32(b, echo)
}
