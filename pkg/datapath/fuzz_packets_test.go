// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"math/rand/v2"
	"net/netip"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// generator makes frames: a good packet of some kind with 1 to 6 mutations, of its description or of its
// bytes. The same random numbers make the same frames.
type generator struct {
	*rand.Rand
	client, server map[bool]netip.AddrPort // by whether it is IPv4
	macs           tg.Mutation
	// hiding: almost every packet is a SYN, and no byte is changed at random: frames that a kernel is
	// likely to answer if it gets past their headers.
	hiding bool
}

func newGenerator(seed uint64) *generator {
	return &generator{
		Rand: rand.New(rand.NewPCG(seed, 0)),
		client: map[bool]netip.AddrPort{
			true: netip.MustParseAddrPort("192.0.2.7:40000"), false: netip.MustParseAddrPort("[2001:db8:1:2::7]:40000"),
		},
		server: map[bool]netip.AddrPort{
			true: netip.MustParseAddrPort("198.51.100.1:443"), false: netip.MustParseAddrPort("[2001:db8:ff::1]:443"),
		},
		macs: tg.MACs([]byte{2, 0, 0, 0, 0, 2}, []byte{2, 0, 0, 0, 0, 1}),
	}
}

// oneIn is true once in n times.
func (g *generator) oneIn(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

// longestFuzzed is what every kernel makes an skb of in one page.
const longestFuzzed = 2800

// frame is the next frame.
func (g *generator) frame() []byte {
	p := g.good()
	mutations := 1 + g.IntN(6)
	later := g.IntN(mutations + 1) // of these, how many are made to the bytes
	for range mutations - later {
		pick(g, packetMutations...)(g, &p)
	}
	frame := p.Bytes()
	for range later {
		frame = g.mutateBytes(frame)
	}
	if len(frame) > longestFuzzed {
		frame = frame[:longestFuzzed]
	}
	return frame
}

// good is a packet that nothing is wrong with.
func (g *generator) good() tg.Packet {
	is4 := g.oneIn(2)
	src, dst := g.client[is4], g.server[is4]
	kind := g.IntN(16)
	if g.hiding {
		kind = g.IntN(8)
	}
	var p tg.Packet
	switch kind {
	default:
		p = tg.SYN(src, dst)
	case 7, 8, 9:
		p = tg.Segment(src, dst, uint8(g.IntN(256)))
	case 10:
		p = tg.Datagram(src, dst, g.bytes(64))
	case 11:
		p = tg.QUIC(src, dst, tg.QUICv1, g.bytes(8))
	case 12:
		p = tg.Echo(src.Addr(), dst.Addr())
	case 13:
		p = tg.ARP(g.client[true].Addr(), g.server[true].Addr())
	case 14:
		p = tg.Raw(g.etherType(), g.bytes(80))
	case 15:
		p = tg.Segment(src, dst, 0)
		p.Proto, p.Payload = g.proto(), g.bytes(80)
	}
	if g.oneIn(8) && p.Src.IsValid() { // also each address of its own
		p.Src = g.beside(p.Src)
	}
	return p.With(g.macs)
}

// beside is another address of the upper half of the same /16 or /112.
func (g *generator) beside(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	b[len(b)-2], b[len(b)-1] = byte(128+g.IntN(127)), byte(1+g.IntN(254))
	a, _ = netip.AddrFromSlice(b)
	return a
}

func (g *generator) bytes(most int) []byte {
	b := make([]byte, g.IntN(most+1))
	for at := range b {
		b[at] = byte(g.Uint32())
	}
	return b
}

func (g *generator) etherType() uint16 {
	return pick[uint16](g, tg.EtherTypeIPv4, tg.EtherTypeIPv6, tg.EtherTypeARP, tg.EtherTypeLocalExp, tg.TPID8021Q, tg.TPID8021AD, 0x9100, 0x8847, 0x8864, 0x05dc, 46, uint16(g.Uint32()))
}

func (g *generator) proto() uint8 {
	return pick[uint8](g, tg.TCP, tg.UDP, tg.ICMPv4, tg.ICMPv6, tg.HopByHop, tg.Routing, tg.FragmentHdr, tg.AH, tg.DestOpts, tg.Mobility, tg.NoNext, 4, 41, 47, 50, 108, 139, 140, uint8(g.Uint32()))
}

// offset is where a fragment lies: mostly at the places that matter.
func (g *generator) offset() uint16 {
	return pick[uint16](g, 0, 0, 0, 8, 8, 16, 24, 40, 65528, uint16(g.IntN(8192)*8))
}

func (g *generator) fragment() *tg.Fragment {
	return &tg.Fragment{Offset: g.offset(), More: g.oneIn(2), ID: uint32(g.IntN(4))}
}

// extension is any IPv6 extension header, of any length that fits.
func (g *generator) extension() tg.ExtHeader {
	e := tg.ExtHeader{Proto: pick[uint8](g, tg.HopByHop, tg.DestOpts, tg.DestOpts, tg.Routing, tg.FragmentHdr, tg.AH, tg.Mobility)}
	if g.oneIn(4) {
		e.Len = 8 * (2 + g.IntN(pick(g, 4, 32)))
	}
	if g.oneIn(2) {
		e.Fragment = g.fragment()
	}
	return e
}

// packetMutations change the description of a packet: what is computed from it is right again.
var packetMutations = []func(g *generator, p *tg.Packet){
	func(g *generator, p *tg.Packet) { // tags, also too many
		for range 1 + g.IntN(3) {
			p.VLANs = append(p.VLANs, tg.VLAN{TPID: pick[uint16](g, tg.TPID8021Q, tg.TPID8021AD), TCI: pick[uint16](g, 0, 0xf000, 1, 100, 0x0fff, 0xffff)})
		}
	},
	func(g *generator, p *tg.Packet) { p.EtherType = g.etherType() },
	func(g *generator, p *tg.Packet) { p.IPv4Options = g.IntN(41) },
	func(g *generator, p *tg.Packet) { p.Fragment = g.fragment() },
	func(g *generator, p *tg.Packet) { p.Ext = append(p.Ext, g.extension()) },
	func(g *generator, p *tg.Packet) {
		for range g.IntN(11) {
			p.Ext = append(p.Ext, g.extension())
		}
	},
	func(g *generator, p *tg.Packet) { // fragment headers of one packet, that may contradict each other
		for range 1 + g.IntN(3) {
			p.Ext = append(p.Ext, tg.ExtHeader{Proto: tg.FragmentHdr, Fragment: &tg.Fragment{More: g.oneIn(2)}}, tg.ExtHeader{Proto: tg.DestOpts})
		}
	},
	func(g *generator, p *tg.Packet) { // many of one kind, as only options may be repeated
		for range g.IntN(11) {
			p.Ext = append(p.Ext, tg.ExtHeader{Proto: tg.DestOpts})
		}
	},
	func(g *generator, p *tg.Packet) { p.Ext = append([]tg.ExtHeader{{Proto: tg.HopByHop}}, p.Ext...) },
	func(g *generator, p *tg.Packet) { p.TCPFlags = uint8(g.IntN(256)) },
	func(g *generator, p *tg.Packet) {
		p.TCPFlags = pick[uint8](g, tg.SYNFlag, tg.SYNFlag|tg.ACK, tg.SYNFlag|tg.FIN, tg.SYNFlag|tg.RST, tg.ACK, tg.SYNFlag|tg.ECE|tg.CWR)
	},
	func(g *generator, p *tg.Packet) { p.Proto = g.proto() },
	func(g *generator, p *tg.Packet) { p.NextHeader = new(g.proto()) },
	func(g *generator, p *tg.Packet) { p.Version = new(uint8(g.IntN(16))) },
	func(g *generator, p *tg.Packet) { p.IHL = new(uint8(g.IntN(16))) },
	func(g *generator, p *tg.Packet) {
		p.IPLength = new(pick(g, 0, uint16(g.IntN(200)), uint16(g.Uint32())))
	},
	func(g *generator, p *tg.Packet) { p.DataOffset = new(uint8(g.IntN(16))) },
	func(g *generator, p *tg.Packet) { p.TCPOptions = tg.NOP(g.IntN(41)) },
	func(g *generator, p *tg.Packet) { p.Payload = g.bytes(pick(g, 16, 100, 1400)) },
	func(g *generator, p *tg.Packet) { p.Trailer = g.IntN(64) },
	func(g *generator, p *tg.Packet) {
		p.TTL, p.TOS, p.DF = uint8(g.Uint32()), uint8(g.Uint32()), g.oneIn(2)
	},
	func(g *generator, p *tg.Packet) { // a first fragment that may end anywhere
		if p.Src.IsValid() {
			whole := transportOf(*p)
			p.Fragment = &tg.Fragment{More: true, ID: uint32(g.IntN(4))}
			p.Transport = whole[:g.IntN(min(len(whole), 32)+1)]
		}
	},
	func(g *generator, p *tg.Packet) {
		if p.Src.IsValid() { // the transport cut short, with lengths that agree
			whole := transportOf(*p)
			p.Transport = whole[:g.IntN(min(len(whole), 64)+1)]
		}
	},
}

// transportOf is what a packet has behind its IP headers.
func transportOf(p tg.Packet) []byte {
	headers := len(p.With(func(p *tg.Packet) { p.Transport, p.Trailer = []byte{}, 0 }).Bytes())
	return p.With(func(p *tg.Packet) { p.Transport, p.Trailer = nil, 0 }).Bytes()[headers:]
}
