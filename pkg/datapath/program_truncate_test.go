// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cilium/ebpf"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// whole are good packets of each kind, by name. A SYN among them must be counted as soon as its
// whole TCP header is there.
func whole() map[string]tg.Packet {
	every := behindAll(tg.HopByHop, tg.DestOpts, tg.Routing, tg.FragmentHdr, tg.AH, tg.DestOpts, tg.Mobility)
	tags := tg.Tagged(tg.TPID8021AD, tg.TPID8021Q)
	return map[string]tg.Packet{
		"SYN 4": syn4(), "SYN 6": syn6(), "SYN 4 tagged": syn4(tags), "SYN 6 tagged": syn6(tags),
		"SYN behind options":   syn4(func(p *tg.Packet) { p.IPv4Options = 40 }, tags),
		"SYN behind headers":   syn6(every),
		"SYN behind 8 headers": syn6(tg.Behind(8, tg.ExtHeader{Proto: tg.DestOpts, Len: 24}), tags),
		"SYN in a fragment 4":  syn4(tg.Fragmented(0, true)), "SYN in a fragment 6": syn6(tg.Fragmented(0, true)),
		"SYN without options 4": segment4(tg.SYNFlag), "SYN without options 6": segment6(tg.SYNFlag),
		"ACK 4": segment4(tg.ACK), "ACK 6": segment6(tg.ACK), "ARP": tg.ARP(client4.Addr(), server4.Addr()),
		"UDP 4": tg.Datagram(client4, server4, make([]byte, 40)), "UDP 6": tg.Datagram(client6, server6, make([]byte, 40)),
		"ping 4": tg.Echo(client4.Addr(), server4.Addr()), "ping 6": tg.Echo(client6.Addr(), server6.Addr()),
		"later fragment 4": syn4(tg.Fragmented(64, true), func(p *tg.Packet) { p.Payload = make([]byte, 40) }),
		"later fragment 6": syn6(tg.Fragmented(64, true), func(p *tg.Packet) { p.Payload = make([]byte, 40) }),
		"10 headers":       syn6(tg.Behind(10, tg.ExtHeader{Proto: tg.DestOpts})),
	}
}

// cutting says how the length field follows a cut.
var cutting = map[string]func(frame []byte, p tg.Packet){
	// The length field promises what was cut: the kernel drops such a packet.
	"lost": func([]byte, tg.Packet) {},
	// The length field agrees with what is there, as if the sender had made it so.
	"sent short": func(frame []byte, p tg.Packet) {
		ip := 14 + 4*len(p.VLANs)
		switch {
		case p.Src.Is4() && len(frame) >= ip+4:
			binary.BigEndian.PutUint16(frame[ip+2:], uint16(len(frame)-ip))
		case p.Src.Is6() && len(frame) >= ip+40:
			binary.BigEndian.PutUint16(frame[ip+4:], uint16(len(frame)-ip-40))
		}
	},
}

// tcpAt is where a SYN's TCP header begins; 0 for what is no SYN.
func tcpAt(p tg.Packet) int {
	if p.Proto != tg.TCP || p.TCPFlags != tg.SYNFlag || p.Fragment != nil && p.Fragment.Offset > 0 || len(p.Ext) > 8 {
		return 0
	}
	return len(p.With(tg.Cut(0)).Bytes())
}

// Cut at every byte, a packet of any kind is judged with one reason and one action, never broken,
// and a SYN whose whole header is there (and whose length does not promise more) is counted.
func TestTruncatedAtEveryByte(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	l.rules(onceADay(1))
	for name, p := range whole() {
		for how, fix := range cutting {
			t.Run(name+"/"+how, func(t *testing.T) {
				l.t = t
				frame := p.Bytes()
				l.specialisedAndGeneral(func() {
					for n := 14; n <= len(frame); n++ {
						cut := append([]byte(nil), frame[:n]...)
						fix(cut, p)
						whole := n == len(frame) || how == "sent short"
						header := 4 * int(frame[max(tcpAt(p)+12, 12)]>>4)
						if p.Fragment != nil {
							header = 20 // the rest may come in later fragments
						}
						l.tryTruncated(cut, tcpAt(p) > 0 && whole && n >= tcpAt(p)+header)
					}
					l.expectNoOther()
				})
			})
		}
	}
}

func (l *programLab) tryTruncated(frame []byte, isSYN bool) {
	l.t.Helper()
	for _, h := range bothHooks {
		if h == hookTCX && !l.runsOnSKB(frame) {
			continue
		}
		l.rules(onceADay(1))
		oneBucket(l)
		l.emptyMeters()
		if isSYN {
			l.expect(h, frame, 0, isNew, "whole SYN")
			l.expect(h, frame, 0, isOver, "whole SYN again")
			continue
		}
		l.expectOneEnd(h, frame)
	}
}

// runsOnSKB says whether the kernel makes an skb of so short a frame for Program.Run: newer ones
// want a whole IP header behind the link header.
func (l *programLab) runsOnSKB(frame []byte) bool {
	if len(frame) >= 14+40 {
		return true
	}
	_, err := l.program(hookTCX).Run(&ebpf.RunOptions{Data: frame})
	if err != nil && !errors.Is(err, unix.EINVAL) {
		l.t.Fatalf("run on %d bytes: %v", len(frame), err)
	}
	l.ownCounters(hookTCX)
	return err == nil
}

// ownCounters reads the counters of a hook's slot into what is expected of them, and returns by how
// much they moved.
func (l *programLab) ownCounters(h hook) map[end]Counter {
	l.t.Helper()
	moved := map[end]Counter{}
	all, err := l.ends(slotOf(h))
	must(l.t, err)
	for reason := range limiterReasonREASON_COUNT {
		for action := range limiterActionACTION_COUNT {
			index, now := counterIndex(slotOf(h), reason, action), all.of(reason, action)
			if before := l.expected[index]; now != before {
				moved[end{reason, action}] = Counter{now.Packets - before.Packets, now.Bytes - before.Bytes}
				l.expected[index] = now
			}
		}
	}
	return moved
}

// expectOneEnd judges a frame that is no whole SYN: it moves one counter by one packet and all of
// its bytes, it is not a new connection, and the verdict is that of the counter's action.
func (l *programLab) expectOneEnd(h hook, frame []byte) {
	l.t.Helper()
	j := l.run(h, frame, nil)
	moved := l.ownCounters(h)
	for e, c := range moved {
		if c != (Counter{1, uint64(len(frame))}) {
			l.t.Errorf("%s %d bytes: %v moved by %v", h, len(frame), e, c)
		}
		if e == isNew || j.verdict != e.verdict(h) {
			l.t.Errorf("%s %d bytes: ended as %v with verdict %d", h, len(frame), e, int32(j.verdict))
		}
	}
	if len(moved) != 1 || string(j.out) != string(frame) {
		l.t.Errorf("%s %d bytes: %d counters moved, bytes %x of %x", h, len(frame), len(moved), j.out, frame)
	}
}
