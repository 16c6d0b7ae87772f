// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// segment4 and segment6 are TCP segments without options, with these flags.
func segment4(flags uint8) tg.Packet { return tg.Segment(client4, server4, flags) }
func segment6(flags uint8) tg.Packet { return tg.Segment(client6, server6, flags) }

// endOfFlags is what RFC 9293 and the kernel make of flags: only SYN without ACK, RST and FIN opens
// a connection; SYN with FIN or RST is nothing that an honest host sends.
func endOfFlags(flags uint8) end {
	switch {
	case flags&tg.SYNFlag == 0:
		return isEstablished
	case flags&(tg.FIN|tg.RST) != 0:
		return isMalformed
	case flags&tg.ACK != 0:
		return isEstablished
	}
	return isNew
}

func TestEveryCombinationOfFlags(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	l.rules(onceADay(1))
	oneBucket(l)
	l.specialisedAndGeneral(func() {
		for flags := range 256 {
			for _, p := range []tg.Packet{segment4(uint8(flags)), segment6(uint8(flags))} {
				for _, h := range bothHooks {
					l.emptyMeters()
					want := endOfFlags(uint8(flags))
					what := fmt.Sprintf("flags %08b", flags)
					l.expect(h, p.Bytes(), 0, want, what)
					if want == isNew {
						l.expect(h, p.Bytes(), 0, isOver, what+" again")
					}
				}
			}
		}
	})
	l.expectNoOther()
}

func tcpRows() []row {
	var rows []row
	for name, flags := range map[string]uint8{
		"null": 0, "FIN": tg.FIN, "RST": tg.RST, "ACK": tg.ACK, "PSH ACK": tg.PSH | tg.ACK, "FIN ACK": tg.FIN | tg.ACK,
		"RST ACK": tg.RST | tg.ACK, "xmas": tg.FIN | tg.PSH | tg.URG, "SYN ACK": tg.SYNFlag | tg.ACK,
		"SYN ACK ECE": tg.SYNFlag | tg.ACK | tg.ECE, "SYN FIN": tg.SYNFlag | tg.FIN, "SYN RST": tg.SYNFlag | tg.RST,
		"SYN FIN ACK": tg.SYNFlag | tg.FIN | tg.ACK, "SYN RST ACK": tg.SYNFlag | tg.RST | tg.ACK, "all": 0xff,
		"SYN URG": tg.SYNFlag | tg.URG, "SYN PSH": tg.SYNFlag | tg.PSH, "SYN ECE CWR": tg.SYNFlag | tg.ECE | tg.CWR,
		"SYN CWR": tg.SYNFlag | tg.CWR, "SYN URG PSH ECE CWR": tg.SYNFlag | tg.URG | tg.PSH | tg.ECE | tg.CWR,
	} {
		rows = append(rows,
			row{name: name + " 4", packet: segment4(flags), want: endOfFlags(flags)},
			row{name: name + " 6", packet: segment6(flags), want: endOfFlags(flags)})
	}
	for _, base := range []tg.Packet{syn4(), syn6()} {
		rows = append(rows, tcpLengthRows(base)...)
	}
	return rows
}

// tcpLengthRows: a header length below the least or past the packet's end is one that the kernel drops.
func tcpLengthRows(base tg.Packet) []row {
	family := fmt.Sprintf(" %d", base.Src.BitLen())
	var rows []row
	for words := range uint8(16) {
		want := isUnparsed
		if words >= 5 && words <= 10 { // the SYN has 20 bytes of options
			want = isNew
		}
		rows = append(rows, row{
			name: fmt.Sprintf("data offset %d%s", words, family), want: want,
			packet: base.With(func(p *tg.Packet) { p.DataOffset = &words }),
		})
	}
	longest := base.With(func(p *tg.Packet) { p.TCPOptions = tg.NOP(40) })
	reserved := func(frame []byte) []byte {
		frame[len(frame)-40+12] |= 0x0f // AccECN and reserved bits
		return frame
	}
	unchecked := base.With(func(p *tg.Packet) { p.Checksum = new(uint16) })
	rows = append(rows,
		row{name: "longest header" + family, packet: longest, want: isNew},
		row{name: "header longer than the packet by 4" + family, packet: longest.With(tg.Cut(56)), want: isUnparsed},
		row{name: "reserved bits" + family, packet: base, edit: reserved, want: isNew},
		row{name: "port 0" + family, packet: base.With(func(p *tg.Packet) { p.SrcPort, p.DstPort = 0, 0 }), want: isNew},
		row{name: "no checksum" + family, packet: unchecked, want: isNew},
		row{name: "padded frame" + family, packet: base.With(func(p *tg.Packet) { p.Trailer = 30 }), want: isNew})
	for _, n := range []int{0, 1, 8, 13, 14, 19} {
		rows = append(rows,
			row{name: fmt.Sprintf("%d bytes of TCP%s", n, family), packet: base.With(tg.Cut(n)), want: isUnparsed},
			row{
				name: fmt.Sprintf("%d bytes of TCP and padding%s", n, family), want: isUnparsed,
				packet: base.With(tg.Cut(n), func(p *tg.Packet) { p.Trailer = 40 }),
			})
	}
	return rows
}

func segmentRows() []row {
	var rows []row
	for _, n := range []uint32{1, 2, 45, 0xffff} {
		data := func(p *tg.Packet) { p.Payload = make([]byte, 2800) }
		for name, r := range map[string]row{
			"data 4": {packet: segment4(tg.ACK).With(data), want: isEstablished},
			"data 6": {packet: segment6(tg.ACK).With(data), want: isEstablished},
			"UDP":    {packet: tg.Datagram(client4, server4, make([]byte, 2800)), want: isOther},
			"SYN 4":  {packet: syn4(data), want: isNew},
			"SYN 6":  {packet: syn6(data), want: isNew},
		} {
			r.name, r.segments = fmt.Sprintf("%s of %d", name, n), n
			rows = append(rows, r)
		}
	}
	return append(rows, bigTCPRows()...)
}

// bigTCPRows: a length of 0 is the rest of the buffer. The kernel takes it so of a buffer of several
// segments that is longer than the field says, and behind a hop-by-hop header.
func bigTCPRows() []row {
	big := func(p *tg.Packet) {
		p.IPLength = new(uint16)
		p.Payload = make([]byte, 2800)
	}
	wholly := func(p *tg.Packet) { p.IPLength = new(uint16) }
	hop := tg.Behind(1, tg.ExtHeader{Proto: tg.HopByHop})
	return []row{
		{name: "BIG TCP 4", packet: segment4(tg.ACK).With(big), want: isEstablished, segments: 50},
		{name: "BIG TCP 6", packet: segment6(tg.ACK).With(big), want: isEstablished, segments: 50},
		{name: "BIG TCP SYN 4", packet: syn4(big), want: isNew, segments: 2},
		{name: "BIG TCP SYN 6", packet: syn6(big), want: isNew, segments: 2},
		{name: "BIG TCP behind headers", packet: syn6(big, tg.Behind(2, tg.ExtHeader{Proto: tg.DestOpts})), want: isNew, segments: 2},
		{name: "length 0 in one segment 4", packet: syn4(wholly), want: isNew, segments: 1},
		{name: "length 0 in one segment 6", packet: syn6(wholly), want: isNew, segments: 1},
		{name: "length 0 in one packet 4", packet: syn4(wholly), want: isNew},
		{name: "length 0 in one packet 6", packet: syn6(wholly), want: isNew},
		{name: "length 0 behind hop-by-hop", packet: syn6(hop, wholly), want: isNew},
		{name: "length 0 behind hop-by-hop, ACK", packet: segment6(tg.ACK).With(hop, wholly), want: isEstablished},
		{name: "length 0 behind hop-by-hop, UDP", packet: tg.Datagram(client6, server6, make([]byte, 40)).With(hop, wholly), want: isOther},
		{name: "length 0 behind hop-by-hop, padded", packet: syn6(hop, wholly, func(p *tg.Packet) { p.Trailer = 8 }), want: isNew},
	}
}
