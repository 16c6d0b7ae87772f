// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

//go:generate go tool bpf2go -target bpfel -output-suffix _test challengeTest ../../bpf/tests/challenge_test.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu

// challengeLab is the test programs that answer every SYN with a cookie.
type challengeLab struct {
	t       *testing.T
	on      map[resetHook]*ebpf.Program
	promise map[resetHook]*ebpf.Variable
	checked map[resetHook]*ebpf.Variable
}

func newChallengeLab(t *testing.T) *challengeLab {
	t.Helper()
	testenv.RequireRoot(t)
	l := &challengeLab{t: t, on: map[resetHook]*ebpf.Program{}, promise: map[resetHook]*ebpf.Variable{}, checked: map[resetHook]*ebpf.Variable{}}
	for _, h := range resetHooks {
		coll, err := loadChallenge(h, 0, true, 0)
		must(t, err)
		t.Cleanup(coll.Close)
		l.on[h] = coll.Programs[challengeEntry(h)]
		l.promise[h], l.checked[h] = coll.Variables["promised"], coll.Variables["checked"]
	}
	return l
}

func challengeEntry(h resetHook) string {
	if h == resetXDP {
		return "answer_xdp"
	}
	return "answer_tc"
}

// loadChallenge is a program that challenges SYNs to a port, 0 for all. blind: whoever listens.
func loadChallenge(h resetHook, port uint16, blind bool, level ebpf.LogLevel) (*ebpf.Collection, error) {
	spec, err := loadChallengeTest()
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		spec.Variables["has_link_header"].Set(h != resetL3), spec.Variables["challenged_port"].Set(port), spec.Variables["blind"].Set(blind),
	)
	if err != nil {
		return nil, err
	}
	for name := range spec.Programs {
		if name != challengeEntry(h) {
			delete(spec.Programs, name)
		}
	}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: level}})
}

// run gives the verdict in one word, "answer", "drop" or "pass", and the frame behind it.
func (l *challengeLab) run(h resetHook, opts ebpf.RunOptions) (verdict string, out []byte, err error) {
	l.t.Helper()
	r := resetLab{t: l.t, on: l.on}
	return r.run(h, opts)
}

// fullPromise is one of a listener under tcp_timestamps=2.
func fullPromise() challengeTestPromise {
	return challengeTestPromise{Window: 16384, Wscale: 7, Options: 1, Sack: 1, Scaling: 1}
}

func (l *challengeLab) promises(p challengeTestPromise) {
	l.t.Helper()
	for _, v := range l.promise {
		must(l.t, v.Set(p))
	}
}

// mustAnswer wants p to become a SYN-ACK of these bytes, whose cookie the kernel takes.
func (l *challengeLab) mustAnswer(h resetHook, p tg.Packet, promise challengeTestPromise, opts ebpf.RunOptions, what string) {
	l.t.Helper()
	if opts.Data == nil {
		opts.Data = p.Bytes()
	}
	before := monotonicMilliseconds()
	verdict, out, err := l.run(h, opts)
	if err != nil || verdict != "answer" {
		l.t.Errorf("%s, %s: %s, %v: %x", h, what, verdict, err, opts.Data)
		return
	}
	answer := decodeTCP(out)
	if answer == nil {
		l.t.Errorf("%s, %s: no TCP in %x", h, what, out)
		return
	}
	value := timestampOf(answer)
	want := SYNACKTo(l.t, p, promise, answer.Seq, value, opts.Data, h)
	if !bytes.Equal(out, want) {
		l.t.Errorf("%s, %s: to\n%x got\n%x, want\n%x", h, what, opts.Data, out, want)
	}
	if ms := monotonicMilliseconds(); value != 0 && (value > ms || int32(before-value) > 128) {
		l.t.Errorf("%s, %s: timestamp %d at %d to %d", h, what, value, before, ms)
	}
	tcp := TCPBytes(p)
	if len(out) > len(opts.Data) && len(answer.Contents) > tcp+4 {
		l.t.Errorf("%s, %s: %d bytes answer %d", h, what, len(out), len(opts.Data))
	}
	l.mustBeGood(h, p, answer.Seq, what)
}

// TCPBytes is how large p's TCP header is.
func TCPBytes(p tg.Packet) int { return 20 + (len(p.TCPOptions)+3)/4*4 }

// mustBeGood asks the kernel about the ACK that follows.
func (l *challengeLab) mustBeGood(h resetHook, p tg.Packet, cookie uint32, what string) {
	l.t.Helper()
	// The next few cookies are good too: the lowest bits say the MSS.
	for ack, want := range map[uint32]int64{cookie + 1: 0, cookie + 9: -int64(unix.EACCES)} {
		reply := p.With(tg.Flags(tg.ACK), func(p *tg.Packet) {
			p.Seq, p.Ack, p.TCPOptions, p.Payload = p.Seq+1, ack, nil, nil
		})
		must(l.t, l.checked[h].Set(int64(99)))
		_, _, err := l.run(h, ebpf.RunOptions{Data: reply.Bytes()})
		var got int64
		must(l.t, errors.Join(err, l.checked[h].Get(&got)))
		if got != want {
			l.t.Errorf("%s, %s: the kernel says %d of ACK %d for cookie %d, want %d", h, what, got, ack, cookie, want)
		}
	}
}

func monotonicMilliseconds() uint32 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return uint32(now.Nano() / int64(time.Millisecond))
}

// decodeTCP is the TCP header of a frame, by another library.
func decodeTCP(frame []byte) *layers.TCP {
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	tcp, _ := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
	return tcp
}

func timestampOf(tcp *layers.TCP) uint32 {
	for _, o := range tcp.Options {
		if o.OptionType == layers.TCPOptionKindTimestamps && len(o.OptionData) == 8 {
			return binary.BigEndian.Uint32(o.OptionData)
		}
	}
	return 0
}

// synOptions is what a SYN asks for, read by another library.
type synOptions struct {
	wscale        uint8
	scales, sacks bool
	timestamp     []byte // nil: none
}

func readSYN(t *testing.T, p tg.Packet) (o synOptions) {
	t.Helper()
	frame := p.With(func(p *tg.Packet) { p.IPv4Options, p.Ext = 0, nil }).Bytes() // not all of which that library knows
	tcp := decodeTCP(frame)
	if tcp == nil {
		t.Fatalf("no SYN in %x", frame)
	}
	for _, option := range tcp.Options {
		switch option.OptionType {
		case layers.TCPOptionKindWindowScale:
			o.scales, o.wscale = true, min(option.OptionData[0], 14)
		case layers.TCPOptionKindSACKPermitted:
			o.sacks = true
		case layers.TCPOptionKindTimestamps:
			o.timestamp = option.OptionData[:4]
		}
	}
	return o
}

// SYNACKTo is the frame that answers p under a promise, made by another library. What only the kernel knows, cookie
// and time, is taken from the answer; the lowest bits of the timestamp are not.
func SYNACKTo(t *testing.T, p tg.Packet, promise challengeTestPromise, cookie, value uint32, frame []byte, h resetHook) []byte {
	t.Helper()
	mss := uint16(65535 - 39)
	if p.Src.Is6() {
		mss -= 20
	}
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(p.DstPort), DstPort: layers.TCPPort(p.SrcPort), SYN: true, ACK: true,
		Seq: cookie, Ack: p.Seq + 1, Window: promise.Window,
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: binary.BigEndian.AppendUint16(nil, mss)}},
	}
	asked := readSYN(t, p)
	if promise.Options != 0 && asked.timestamp != nil {
		tcp.Options = append(tcp.Options, optionsFor(asked, promise, value)...)
	}
	return answerFrame(t, p, tcp, frame, h)
}

// optionsFor are those behind the MSS, in the order of the kernel's own.
func optionsFor(asked synOptions, promise challengeTestPromise, value uint32) (all []layers.TCPOption) {
	nop := layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1}
	low := uint32(15)
	if asked.sacks && promise.Sack != 0 {
		low |= 16
		all = append(all, layers.TCPOption{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2})
	} else {
		all = append(all, nop, nop)
	}
	scales := asked.scales && promise.Scaling != 0
	if scales {
		low = low&^15 | uint32(asked.wscale)
	}
	data := slices.Concat(binary.BigEndian.AppendUint32(nil, value&^63|low), asked.timestamp)
	all = append(all, layers.TCPOption{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: data})
	if scales {
		all = append(all, nop, layers.TCPOption{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{promise.Wscale}})
	}
	return all
}

// answerFrame is tcp on its way back to where p came from, with the tags of p and nothing else of it.
func answerFrame(t *testing.T, p tg.Packet, tcp *layers.TCP, frame []byte, h resetHook) []byte {
	t.Helper()
	link := p.With(func(p *tg.Packet) {
		p.SrcMAC, p.DstMAC = p.DstMAC, p.SrcMAC
		p.Src, p.Dst, p.EtherType = netip.Addr{}, netip.Addr{}, tg.EtherTypeIPv6
		p.Payload, p.Trailer = nil, 0
	})
	var ip interface {
		gopacket.SerializableLayer
		gopacket.NetworkLayer
	} = &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: p.Dst.AsSlice(), DstIP: p.Src.AsSlice(),
	}
	if p.Src.Is4() {
		link.EtherType = tg.EtherTypeIPv4
		ip = &layers.IPv4{
			Version: 4, TTL: 64, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolTCP,
			SrcIP: p.Dst.AsSlice(), DstIP: p.Src.AsSlice(),
		}
	}
	must(t, tcp.SetNetworkLayerForChecksum(ip))
	out := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, tcp))
	if h == resetL3 {
		return append(bytes.Clone(frame[:14]), out.Bytes()...)
	}
	return append(link.Bytes(), out.Bytes()...)
}

// synOptionMixes are the option fields that a SYN may come with, by what is in them.
func synOptionMixes() map[string][]byte {
	all := map[string][]byte{}
	for _, mss := range []uint16{0, 536, 1220, 1300, 1440, 1460, 8960, 9000, 65535} {
		for _, sack := range []bool{false, true} {
			for _, timestamps := range []bool{false, true} {
				for _, scale := range []int{-1, 0, 1, 7, 14, 15} {
					var parts [][]byte
					if mss > 0 {
						parts = append(parts, tg.MSS(mss))
					}
					if sack {
						parts = append(parts, tg.SACKPermitted())
					}
					if timestamps {
						parts = append(parts, tg.Timestamps(0xfedcba98, 0))
					}
					if scale >= 0 {
						parts = append(parts, tg.NOP(1), tg.WindowScale(uint8(scale)))
					}
					name := fmt.Sprintf("mss %d sack %v timestamps %v scale %d", mss, sack, timestamps, scale)
					all[name] = slices.Concat(parts...)
					slices.Reverse(parts)
					all[name+" reversed"] = slices.Concat(parts...)
				}
			}
		}
	}
	return all
}
