// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"
	"testing"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

func plainRows() []row {
	payload := make([]byte, 64)
	proto := func(p uint8) tg.Mutation {
		return func(to *tg.Packet) { to.Proto, to.Payload = p, payload }
	}
	fastOpen := func(p *tg.Packet) { p.Payload = payload }
	return []row{
		{name: "SYN 4", packet: syn4(), want: isNew},
		{name: "SYN 6", packet: syn6(), want: isNew},
		{name: "SYN without options 4", packet: tg.Segment(client4, server4, tg.SYNFlag), want: isNew},
		{name: "SYN without options 6", packet: tg.Segment(client6, server6, tg.SYNFlag), want: isNew},
		{name: "SYN with data 4", packet: syn4(fastOpen), want: isNew},
		{name: "SYN with data 6", packet: syn6(fastOpen), want: isNew},
		{name: "ACK 4", packet: tg.Segment(client4, server4, tg.ACK), want: isEstablished},
		{name: "ACK 6", packet: tg.Segment(client6, server6, tg.ACK), want: isEstablished},
		{name: "UDP 4", packet: tg.Datagram(client4, server4, payload), want: isOther},
		{name: "UDP 6", packet: tg.Datagram(client6, server6, payload), want: isOther},
		{name: "UDP empty", packet: tg.Datagram(client4, server4, nil), want: isOther},
		{name: "QUIC 4", packet: tg.QUIC(client4, server4, tg.QUICv1, payload[:8]), want: isOther, initial: true},
		{name: "QUIC 6", packet: tg.QUIC(client6, server6, tg.QUICv2, payload[:8]), want: isOther, initial: true},
		{name: "ICMP", packet: tg.Echo(client4.Addr(), server4.Addr()), want: isOther},
		{name: "ICMPv6", packet: tg.Echo(client6.Addr(), server6.Addr()), want: isOther},
		{name: "IPIP", packet: syn4(proto(4)), want: isOther},
		{name: "GRE", packet: syn4(proto(47)), want: isOther},
		{name: "ESP 4", packet: syn4(proto(50)), want: isOther},
		{name: "ESP 6", packet: syn6(proto(50)), want: isOther},
		{name: "AH 4", packet: syn4(proto(51)), want: isOther},
		{name: "SCTP", packet: syn6(proto(132)), want: isOther},
		{name: "protocol 0 in IPv4", packet: syn4(proto(0)), want: isOther},
		{name: "protocol 255", packet: syn6(proto(255)), want: isOther},
	}
}

func linkRows() []row {
	notIP := func(name string, etherType uint16, payload ...byte) row {
		return row{name: name, packet: tg.Raw(etherType, payload), want: isNotIP, nobody: true}
	}
	snap := slices.Concat([]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, syn4(tg.WithoutLink()).Bytes())
	rows := []row{
		{name: "ARP", packet: tg.ARP(client4.Addr(), server4.Addr()), want: isNotIP, nobody: true},
		{name: "self test", packet: tg.Raw(tg.EtherTypeLocalExp, nil), want: passed(limiterReasonREASON_SELF_TEST), nobody: true},
		notIP("802.3 with SNAP", uint16(len(snap)), snap...),
		notIP("MPLS", 0x8847, 0, 0, 0x11, 64),
		notIP("PPPoE", 0x8864, 0x11, 0, 0, 1, 0, 2, 0, 0x21),
		notIP("old QinQ, which Linux does not know", 0x9100, syn4().Bytes()[12:]...),
		{name: "IPv6 behind the ethertype of IPv4", packet: syn6(func(p *tg.Packet) { p.EtherType = tg.EtherTypeIPv4 }), want: isUnparsed, nobody: true},
		{name: "IPv4 behind the ethertype of IPv6", packet: syn4(func(p *tg.Packet) { p.EtherType = tg.EtherTypeIPv6 }), want: isUnparsed, nobody: true},
	}
	for _, base := range []tg.Packet{syn4(), syn6()} {
		rows = append(rows, tagRows(base)...)
	}
	return rows
}

// tagRows: up to two tags are looked behind. Three go to the kernel, which drops them, but for the
// priority tags that it strips.
func tagRows(base tg.Packet) []row {
	family := fmt.Sprintf(" %d", base.Src.BitLen())
	tagged := func(name string, want end, tags ...tg.VLAN) row {
		p := base.With(func(p *tg.Packet) { p.VLANs = tags })
		return row{name: name + family, packet: p, want: want, nobody: len(tags) > 2}
	}
	q := func(id uint16) tg.VLAN { return tg.VLAN{TPID: tg.TPID8021Q, TCI: id} }
	ad := func(id uint16) tg.VLAN { return tg.VLAN{TPID: tg.TPID8021AD, TCI: id} }
	var rows []row
	for _, outer := range []tg.VLAN{q(100), ad(100), q(0), ad(0), q(0xe000), q(0xffff)} {
		name := fmt.Sprintf("%04x %04x", outer.TPID, outer.TCI)
		rows = append(rows, tagged("tag "+name, isNew, outer))
		for _, inner := range []tg.VLAN{q(7), ad(7), q(0x3000)} {
			deep := isUnparsed
			if outer.TCI&0xfff == 0 || inner.TCI&0xfff == 0 {
				deep = isMalformed
			}
			names := fmt.Sprintf("%s in %04x %04x", name, inner.TPID, inner.TCI)
			rows = append(rows, tagged("tag "+names, isNew, outer, inner),
				tagged("third tag "+names, deep, outer, inner, q(9)),
				tagged("fourth tag "+names, deep, outer, inner, ad(9), q(0)))
		}
	}
	return append(rows,
		tagged("third tag has id 0", isMalformed, q(1), q(2), q(0)),
		row{name: "tagged ARP" + family, packet: tg.ARP(client4.Addr(), server4.Addr()).With(tg.Tagged(tg.TPID8021Q)), want: isNotIP, nobody: true})
}

// A frame of many pages reaches XDP in several buffers, and counts with all of its bytes.
func TestJumboFrameInSeveralBuffers(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	jumbo := func(p *tg.Packet) { p.Payload = make([]byte, 8900) }
	for _, p := range []tg.Packet{syn4(jumbo), syn6(jumbo), syn6(jumbo, tg.Behind(8, tg.ExtHeader{Proto: tg.DestOpts, Len: 600}))} {
		l.specialisedAndGeneral(func() { l.examine(hookXDP, row{packet: p, want: isNew}) })
	}
	far := syn6(tg.Behind(5, tg.ExtHeader{Proto: tg.DestOpts, Len: 2048}))
	l.specialisedAndGeneral(func() { l.examine(hookXDP, row{packet: far, want: isNew}) })
}

// On a device without a link header (wg, tun, ipip, gre) the packet begins with IP: what stands in
// front of it, if anything does, is not looked at. Program.Run puts an Ethernet header there, which
// p.bytes then counts, so a length field may promise that much too much.
func TestProgramWithoutLinkHeader(t *testing.T) {
	l := newProgramLab(t, frozen{})
	var rows []row
	for _, r := range slices.Concat(plainRows(), tcpRows(), ipv4Rows(), fragment4Rows(), ipv6Rows(), chainRows(), fragment6Rows()) {
		promises := r.packet.IPLength != nil && r.want == isUnparsed
		if len(r.packet.VLANs) > 0 || promises {
			continue
		}
		r.packet = r.packet.With(func(p *tg.Packet) { p.SrcMAC, p.DstMAC = [6]byte{0x45}, [6]byte{0x60, 1} })
		rows = append(rows, r)
	}
	if len(rows) < 400 {
		t.Errorf("only %d rows", len(rows))
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			l.t = t
			l.specialisedAndGeneral(func() { l.examine(hookTCX, r) })
		})
	}
}

// A tag is none where there is no link header: the packet is not IP.
func TestTagWithoutLinkHeaderIsNotIP(t *testing.T) {
	l := newProgramLab(t, frozen{})
	l.rules(onceADay(1))
	l.expect(hookTCX, syn4(tg.Tagged(tg.TPID8021Q)).Bytes(), 0, isNotIP, "a tag")
	l.expectNoOther()
}
