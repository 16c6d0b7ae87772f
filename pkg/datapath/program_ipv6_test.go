// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// extensions are the headers that the data path walks, by the name that rows give them.
var extensions = []struct {
	name  string
	proto uint8
}{
	{"hop-by-hop", tg.HopByHop}, {"routing", tg.Routing}, {"fragment", tg.FragmentHdr}, {"AH", tg.AH},
	{"destination", tg.DestOpts}, {"mobility", tg.Mobility},
}

// behindAll puts packets behind one header of each protocol, in order.
func behindAll(protos ...uint8) tg.Mutation {
	return func(p *tg.Packet) {
		for _, proto := range protos {
			p.Ext = append(p.Ext, tg.ExtHeader{Proto: proto})
		}
	}
}

func ipv6Rows() []row {
	length := func(n uint16) tg.Mutation { return func(p *tg.Packet) { p.IPLength = &n } }
	rows := []row{
		{name: "payload length 41 of 40", packet: syn6(length(41)), want: isUnparsed, nobody: true},
		{name: "payload length 39 of 40", packet: syn6(length(39)), want: isUnparsed},
		{name: "payload length 65535", packet: syn6(length(65535)), want: isUnparsed, nobody: true},
		{name: "payload length 19", packet: syn6(length(19)), want: isUnparsed},
		{name: "payload length takes some padding", packet: syn6(length(41), func(p *tg.Packet) { p.Trailer = 2 }), want: isNew},
		{name: "traffic class", packet: syn6(func(p *tg.Packet) { p.TOS = 0xff }), want: isNew},
		{name: "hop limit 1", packet: syn6(func(p *tg.Packet) { p.TTL = 1 }), want: isNew},
		{name: "no next header", packet: syn6(func(p *tg.Packet) { p.Proto = tg.NoNext }), want: isOther},
		{name: "HIP", packet: syn6(func(p *tg.Packet) { p.Proto = 139 }), want: isOther},
		{name: "shim6", packet: syn6(func(p *tg.Packet) { p.Proto = 140 }), want: isOther},
		{name: "experiment 253", packet: syn6(func(p *tg.Packet) { p.Proto = 253 }), want: isOther},
	}
	for version := range uint8(16) {
		if version != 6 {
			rows = append(rows, row{
				name: fmt.Sprintf("version %d", version), want: isUnparsed, nobody: true,
				packet: syn6(func(p *tg.Packet) { p.Version = &version }),
			})
		}
	}
	return rows
}

func chainRows() []row {
	var rows []row
	for _, e := range extensions {
		header := tg.ExtHeader{Proto: e.proto}
		for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 40, 100} {
			want := isNew
			if n > 8 {
				want = isMalformed
			}
			rows = append(rows, row{name: fmt.Sprintf("%d %s", n, e.name), packet: syn6(tg.Behind(n, header)), want: want})
		}
		for _, size := range []int{16, 24, 40, 512, 1020} {
			long := tg.ExtHeader{Proto: e.proto, Len: size}
			rows = append(rows, row{name: fmt.Sprintf("%s of %d bytes", e.name, size), packet: syn6(tg.Behind(1, long)), want: isNew})
		}
		rows = append(rows, behindRows(e.name, header)...)
	}
	every := behindAll(tg.HopByHop, tg.DestOpts, tg.Routing, tg.FragmentHdr, tg.AH, tg.DestOpts, tg.Mobility)
	tagged := tg.Tagged(tg.TPID8021AD, tg.TPID8021Q)
	return append(rows,
		row{name: "every header", packet: syn6(every), want: isNew},
		row{name: "every header, two tags", packet: syn6(every, tagged), want: isNew},
		row{name: "every header and two more", packet: syn6(every, behindAll(tg.DestOpts, tg.DestOpts)), want: isMalformed},
		row{name: "8 headers of 300 bytes, two tags", packet: syn6(tg.Behind(8, tg.ExtHeader{Proto: tg.DestOpts, Len: 300}), tagged), want: isNew},
		row{name: "AH of 4 words", packet: syn6(tg.Behind(1, tg.ExtHeader{Proto: tg.AH, Len: 16})), want: isNew},
		row{name: "nothing behind a header", packet: syn6(behindAll(tg.DestOpts), func(p *tg.Packet) { p.Proto = tg.NoNext }), want: isOther},
	)
}

// behindRows: what else may stand behind a header, and where the chain may break off.
func behindRows(name string, header tg.ExtHeader) []row {
	behind := tg.Behind(1, header)
	size := len(syn6(behind).Bytes()) - len(syn6().Bytes())
	cut := func(n int) func([]byte) []byte {
		return func(frame []byte) []byte {
			frame = frame[:14+40+n]
			binary.BigEndian.PutUint16(frame[14+4:], uint16(n))
			return frame
		}
	}
	overrun := func(frame []byte) []byte {
		frame[14+40+1] = 255
		return frame
	}
	rows := []row{
		{name: "ACK behind " + name, packet: segment6(tg.ACK).With(behind), want: isEstablished},
		{name: "SYN FIN behind " + name, packet: segment6(tg.SYNFlag | tg.FIN).With(behind), want: isMalformed},
		{name: "UDP behind " + name, packet: tg.Datagram(client6, server6, make([]byte, 32)).With(behind), want: isOther},
		{name: "ping behind " + name, packet: tg.Echo(client6.Addr(), server6.Addr()).With(behind), want: isOther},
		{name: "half of " + name, packet: syn6(behind), edit: cut(size / 2), want: isUnparsed},
		{name: "only " + name, packet: syn6(behind), edit: cut(size), want: isUnparsed},
		{name: "19 bytes of TCP behind " + name, packet: syn6(behind), edit: cut(size + 19), want: isUnparsed},
	}
	if header.Proto != tg.FragmentHdr {
		rows = append(rows, row{name: "past the end: " + name, packet: syn6(behind), edit: overrun, want: isUnparsed})
	}
	return rows
}

// fragment6Rows: as in IPv4, and a first fragment must hold the whole chain (RFC 7112).
func fragment6Rows() []row {
	first := tg.Fragmented(0, true)
	payload := func(p *tg.Packet) { p.Payload = make([]byte, 32) }
	udp := tg.Datagram(client6, server6, make([]byte, 32))
	frag := func(offset uint16, more bool) tg.Mutation {
		return tg.Behind(1, tg.ExtHeader{Proto: tg.FragmentHdr, Fragment: &tg.Fragment{Offset: offset, More: more, ID: 7}})
	}
	options := behindAll(tg.DestOpts)
	rows := []row{
		{name: "first, whole SYN", packet: syn6(first), want: isNew},
		{name: "first, TCP header of 20 bytes", packet: syn6(first, tg.Cut(20)), want: isNew},
		{name: "first, options cut", packet: syn6(first, tg.Cut(24)), want: isNew},
		{name: "first, ACK", packet: segment6(tg.ACK).With(first), want: isEstablished},
		{name: "first, SYN RST", packet: segment6(tg.SYNFlag | tg.RST).With(first), want: isMalformed},
		{name: "first, UDP", packet: udp.With(first), want: isOther},
		{name: "first, options before and behind", packet: syn6(options, frag(0, true), options), want: isNew},
		{name: "first, 8 headers", packet: syn6(tg.Behind(7, tg.ExtHeader{Proto: tg.DestOpts}), frag(0, true)), want: isNew},
		{name: "first, 9 headers", packet: syn6(tg.Behind(8, tg.ExtHeader{Proto: tg.DestOpts}), frag(0, true)), want: isMalformed},
		{name: "atomic", packet: syn6(frag(0, false)), want: isNew},
		{name: "atomic, 13 bytes of TCP", packet: syn6(frag(0, false), tg.Cut(13)), want: isUnparsed},
		{name: "offset 8", packet: syn6(tg.Fragmented(8, false), payload), want: isEvasive},
		{name: "offset 8 and more", packet: syn6(tg.Fragmented(8, true), payload), want: isEvasive},
		{name: "offset 8 behind options", packet: syn6(options, tg.Fragmented(8, false), payload), want: isEvasive},
		{name: "offset 8, reserved bits", packet: syn6(tg.Fragmented(8, false), payload), edit: orByte(14+40+3, 0x06), want: isEvasive},
		{name: "offset 8, UDP", packet: udp.With(tg.Fragmented(8, false)), want: isLater},
		{name: "offset 16", packet: syn6(tg.Fragmented(16, false), payload), want: isLater},
		{name: "last possible offset", packet: syn6(tg.Fragmented(65528, true), payload), want: isLater},
		{name: "later, says options", packet: syn6(tg.Fragmented(64, true), options, payload, func(p *tg.Packet) { p.Proto = tg.DestOpts }), want: isLater},
		{name: "later, no payload", packet: syn6(tg.Fragmented(64, false)), want: isLater},
		{name: "first in first", packet: syn6(frag(0, true), frag(0, true)), want: isNew},
		{name: "later in first", packet: syn6(frag(0, true), frag(64, true)), want: isLater},
		{name: "offset 8 in first", packet: syn6(frag(0, true), frag(8, true)), want: isEvasive},
		{name: "first in atomic", packet: syn6(frag(0, false), frag(0, true), tg.Cut(13)), want: isEvasive},
		{name: "atomic in first", packet: syn6(frag(0, true), frag(0, false), tg.Cut(13)), want: isEvasive},
	}
	for n := range 20 {
		rows = append(rows, row{name: fmt.Sprintf("first of %d bytes", n), packet: syn6(first, tg.Cut(n)), want: isEvasive})
	}
	return append(rows, cutChainRows()...)
}

// cutChainRows: a first fragment of options that ends at each byte before the TCP header is whole.
func cutChainRows() []row {
	whole := syn6(tg.Behind(1, tg.ExtHeader{Proto: tg.FragmentHdr, Fragment: &tg.Fragment{More: true}}),
		tg.Behind(3, tg.ExtHeader{Proto: tg.DestOpts, Len: 16}))
	var rows []row
	for n := 8; n < 8+3*16+20; n++ {
		want := isMalformed
		if n >= 8+3*16 {
			want = isEvasive
		}
		rows = append(rows, row{
			name: fmt.Sprintf("first, chain cut at %d", n), packet: whole, want: want,
			edit: func(frame []byte) []byte {
				frame = frame[:14+40+n]
				binary.BigEndian.PutUint16(frame[14+4:], uint16(n))
				return frame
			},
		})
	}
	return rows
}
