// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

func ipv4Rows() []row {
	rows := []row{
		{name: "evil bit", packet: syn4(), edit: orByte(14+6, 0x80), want: isNew},
		{name: "do not fragment", packet: syn4(func(p *tg.Packet) { p.DF = true }), want: isNew},
		{name: "wrong checksum", packet: syn4(func(p *tg.Packet) { p.IPChecksum = new(uint16) }), want: isNew},
		{name: "TTL 1", packet: syn4(func(p *tg.Packet) { p.TTL = 1 }), want: isNew},
		{name: "TOS", packet: syn4(func(p *tg.Packet) { p.TOS = 0xff }), want: isNew},
	}
	for words := uint8(5); words <= 15; words++ {
		options := syn4(func(p *tg.Packet) { p.IPv4Options = int(words-5) * 4 })
		rows = append(rows,
			row{name: fmt.Sprintf("IHL %d", words), packet: options, want: isNew},
			row{name: fmt.Sprintf("IHL %d in two tags", words), packet: options.With(tg.Tagged(tg.TPID8021AD, tg.TPID8021Q)), want: isNew},
			row{name: fmt.Sprintf("IHL %d ACK", words), packet: options.With(tg.Flags(tg.ACK)), want: isEstablished},
			row{name: fmt.Sprintf("IHL %d SYN FIN", words), packet: options.With(tg.Flags(tg.SYNFlag | tg.FIN)), want: isMalformed})
	}
	for words := range uint8(5) {
		rows = append(rows, row{
			name: fmt.Sprintf("IHL %d", words), want: isUnparsed, nobody: true,
			packet: syn4(func(p *tg.Packet) { p.IHL = &words }),
		})
	}
	for version := range uint8(16) {
		if version != 4 {
			rows = append(rows, row{
				name: fmt.Sprintf("version %d", version), want: isUnparsed, nobody: true,
				packet: syn4(func(p *tg.Packet) { p.Version = &version }),
			})
		}
	}
	return append(rows, totalLengthRows()...)
}

// totalLengthRows: the header takes 20 bytes, TCP with its options 40.
func totalLengthRows() []row {
	var rows []row
	for _, c := range []struct {
		total  uint16
		want   end
		nobody bool
	}{
		{0, isNew, false}, {1, isUnparsed, true}, {19, isUnparsed, true}, {20, isUnparsed, false}, {28, isUnparsed, false},
		{39, isUnparsed, false}, {40, isUnparsed, false}, {59, isUnparsed, false}, {60, isNew, false},
		{61, isUnparsed, true}, {65535, isUnparsed, true},
	} {
		length := func(p *tg.Packet) { p.IPLength = &c.total }
		rows = append(rows, row{
			name: fmt.Sprintf("total length %d of 60", c.total), packet: syn4(length), want: c.want, nobody: c.nobody,
		})
	}
	long := uint16(61)
	padded := syn4(func(p *tg.Packet) { p.IPLength, p.Trailer = &long, 4 })
	whole := uint16(44)
	shortHeader := segment4(tg.SYNFlag).With(func(p *tg.Packet) { p.IPv4Options, p.IPLength = 40, &whole })
	return append(rows,
		row{name: "total length takes some of the padding", packet: padded, want: isNew},
		row{name: "total length less than the options", packet: shortHeader, want: isUnparsed, nobody: true})
}

func orByte(at int, bits byte) func([]byte) []byte {
	return func(frame []byte) []byte {
		frame[at] |= bits
		return frame
	}
}

// fragment4Rows: RFC 1858 and RFC 3128. A first fragment that shows the whole TCP header is judged
// as what it is; one that hides it, or one that could write over it, is refused.
func fragment4Rows() []row {
	first, later := tg.Fragmented(0, true), func(offset uint16, more bool) tg.Mutation { return tg.Fragmented(offset, more) }
	payload := func(p *tg.Packet) { p.Payload = make([]byte, 32) }
	udp := tg.Datagram(client4, server4, make([]byte, 32))
	icmp := tg.Echo(client4.Addr(), server4.Addr())
	rows := []row{
		{name: "first, whole SYN", packet: syn4(first), want: isNew},
		{name: "first, TCP header of 20 bytes", packet: syn4(first, tg.Cut(20)), want: isNew},
		{name: "first, options cut", packet: syn4(first, tg.Cut(24)), want: isNew},
		{name: "first, behind IPv4 options", packet: syn4(first, func(p *tg.Packet) { p.IPv4Options = 40 }), want: isNew},
		{name: "first, ACK", packet: segment4(tg.ACK).With(first), want: isEstablished},
		{name: "first, SYN FIN", packet: segment4(tg.SYNFlag | tg.FIN).With(first), want: isMalformed},
		{name: "first, UDP", packet: udp.With(first), want: isOther},
		{name: "first, ICMP", packet: icmp.With(first), want: isOther},
		{name: "offset 8", packet: syn4(later(8, false), payload), want: isEvasive},
		{name: "offset 8 and more", packet: syn4(later(8, true), payload), want: isEvasive},
		{name: "offset 8, no payload", packet: syn4(later(8, false)), want: isEvasive},
		{name: "offset 8, tagged", packet: syn4(later(8, false), payload, tg.Tagged(tg.TPID8021Q)), want: isEvasive},
		{name: "offset 8, evil bit", packet: syn4(later(8, true), payload), edit: orByte(14+6, 0x80), want: isEvasive},
		{name: "offset 8, UDP", packet: udp.With(later(8, false)), want: isLater},
		{name: "offset 8, ICMP", packet: icmp.With(later(8, false)), want: isLater},
		{name: "offset 16", packet: syn4(later(16, false), payload), want: isLater},
		{name: "offset 24 and more", packet: syn4(later(24, true), payload), want: isLater},
		{name: "last possible offset", packet: syn4(later(65528, false), payload), want: isLater},
		{name: "later, UDP", packet: udp.With(later(1480, false)), want: isLater},
		{name: "first, IHL 4", packet: syn4(first, func(p *tg.Packet) { words := uint8(4); p.IHL = &words }), want: isUnparsed, nobody: true},
	}
	for n := range 20 {
		rows = append(rows,
			row{name: fmt.Sprintf("first of %d bytes", n), packet: syn4(first, tg.Cut(n)), want: isEvasive},
			row{
				name: fmt.Sprintf("first of %d bytes, padded", n), want: isEvasive,
				packet: syn4(first, tg.Cut(n), func(p *tg.Packet) { p.Trailer = 40 }),
			})
	}
	return rows
}
