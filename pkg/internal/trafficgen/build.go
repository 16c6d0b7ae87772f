// SPDX-License-Identifier: Apache-2.0

package trafficgen

import (
	"encoding/binary"
	"net/netip"
)

var be = binary.BigEndian

// layout says where the parts of a built frame begin, in bytes.
type layout struct {
	ip, transport int
}

// Bytes builds the frame. Lengths and checksums are right unless a field says otherwise. It panics when Src and
// Dst are of different families.
func (p Packet) Bytes() []byte {
	frame, _ := p.build()
	return frame
}

func (p Packet) build() ([]byte, layout) {
	frame := p.link()
	at := layout{ip: len(frame)}
	transport := p.Payload
	switch {
	case p.Src.Is4():
		transport = p.transport()
		frame = append(frame, p.ipv4(len(transport))...)
	case p.Src.Is6():
		transport = p.transport()
		frame = append(frame, p.ipv6(len(transport))...)
	}
	at.transport = len(frame)
	frame = append(frame, transport...)
	return append(frame, make([]byte, p.Trailer)...), at
}

func (p Packet) link() []byte {
	if p.NoLink {
		return nil
	}
	b := append(p.DstMAC[:], p.SrcMAC[:]...)
	for _, tag := range p.VLANs {
		b = be.AppendUint16(b, orElse(tag.TPID, TPID8021Q))
		b = be.AppendUint16(b, tag.TCI)
	}
	family := uint16(EtherTypeIPv4)
	if p.Src.Is6() {
		family = EtherTypeIPv6
	}
	return be.AppendUint16(b, orElse(p.EtherType, family))
}

func (p Packet) ipv4(transportLen int) []byte {
	h := make([]byte, 20, 60)
	for range (p.IPv4Options + 3) / 4 * 4 {
		h = append(h, 1)
	}
	h[0] = given(p.Version, 4)<<4 | given(p.IHL, uint8(len(h)/4))&15
	h[1] = p.TOS
	be.PutUint16(h[2:], given(p.IPLength, uint16(len(h)+transportLen)))
	if p.DF {
		h[6] = 0x40
	}
	if f := p.Fragment; f != nil {
		be.PutUint16(h[4:], uint16(f.ID))
		be.PutUint16(h[6:], be.Uint16(h[6:])|f.Offset/8)
		if f.More {
			h[6] |= 0x20
		}
	}
	h[8] = orElse(p.TTL, 64)
	h[9] = given(p.NextHeader, p.Proto)
	copy(h[12:], p.Src.AsSlice())
	copy(h[16:], p.Dst.AsSlice())
	be.PutUint16(h[10:], given(p.IPChecksum, fold(sum(h))))
	return h
}

func (p Packet) ipv6(transportLen int) []byte {
	chain := p.chain()
	next := func(i int) uint8 { // what follows header i-1
		if i < len(chain) {
			return chain[i].Proto
		}
		return given(p.NextHeader, p.Proto)
	}
	h := make([]byte, 40)
	be.PutUint32(h, uint32(given(p.Version, 6))<<28|uint32(p.TOS)<<20)
	h[6], h[7] = next(0), orElse(p.TTL, 64)
	copy(h[8:], p.Src.AsSlice())
	copy(h[24:], p.Dst.AsSlice())
	for i, ext := range chain {
		h = append(h, ext.bytes(next(i+1))...)
	}
	be.PutUint16(h[4:], given(p.IPLength, uint16(len(h)-40+transportLen)))
	return h
}

// chain is Ext and, for a fragment, the header that says so.
func (p Packet) chain() []ExtHeader {
	if p.Fragment == nil {
		return p.Ext
	}
	return append(p.Ext[:len(p.Ext):len(p.Ext)], ExtHeader{Proto: FragmentHdr, Fragment: p.Fragment})
}

func (e ExtHeader) bytes(next uint8) []byte {
	size := max(8, (e.Len+7)/8*8)
	if e.Proto == AH && e.Len == 0 {
		size = 24
	}
	b := make([]byte, size)
	switch e.Proto {
	case FragmentHdr:
		b = e.fragment()
	case AH:
		b[1] = uint8(size/4 - 2)
		be.PutUint32(b[4:], 0x1000) // security parameters index
		be.PutUint32(b[8:], 1)      // sequence number
	case Routing:
		b[1] = uint8(size/8 - 1)
		b[2] = 253 // a type for experiments (RFC 4727), no segments left: to be ignored
	case Mobility:
		b[1] = uint8(size/8 - 1)
	default:
		b[1] = uint8(size/8 - 1)
		padOptions(b[2:])
	}
	b[0] = next
	return b
}

func (e ExtHeader) fragment() []byte {
	b := make([]byte, 8)
	if f := e.Fragment; f != nil {
		be.PutUint16(b[2:], f.Offset&^7)
		if f.More {
			b[3] |= 1
		}
		be.PutUint32(b[4:], f.ID)
	}
	return b
}

// padOptions fills b with PadN options (RFC 8200 section 4.2), none of which holds more than 5 zeros: Linux
// refuses more than 7 bytes of padding in a row, so options of an unknown type that is to be skipped stand
// between them.
func padOptions(b []byte) {
	for skip := false; len(b) > 0; skip = !skip {
		size := min(6, len(b))
		if rest := len(b) - size; rest == 1 {
			size--
		}
		b[0], b[1] = 1, uint8(size-2)
		if skip {
			b[0] = 0x1e // RFC 4727: an experiment, skip it if it is not known
		}
		b = b[size:]
	}
}

// sum is the ones' complement sum of 16-bit words, not yet folded (RFC 1071).
func sum(parts ...[]byte) uint32 {
	var total uint32
	for _, b := range parts {
		for ; len(b) >= 2; b = b[2:] {
			total += uint32(be.Uint16(b))
		}
		if len(b) == 1 {
			total += uint32(b[0]) << 8
		}
	}
	return total
}

func fold(total uint32) uint16 {
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	return ^uint16(total)
}

// pseudo is the sum of the pseudo header that transport checksums cover.
func pseudo(src, dst netip.Addr, proto uint8, length int) uint32 {
	return sum(src.AsSlice(), dst.AsSlice()) + uint32(proto) + uint32(length)
}

// given is what a field is set to, or else what it should be.
func given[T any](field *T, computed T) T {
	if field != nil {
		return *field
	}
	return computed
}

func orElse[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}
