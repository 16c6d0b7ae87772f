// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// resetShapes are SYNs of every shape that parse takes for a new connection.
func resetShapes() map[string]tg.Packet {
	all := map[string]tg.Packet{}
	networks := map[string]tg.Packet{}
	for options := 0; options <= 40; options += 4 {
		networks[fmt.Sprintf("ihl %d", 5+options/4)] = syn4(func(p *tg.Packet) { p.IPv4Options = options })
	}
	for n := range 9 {
		for _, e := range extensions {
			networks[fmt.Sprintf("%d %s", n, e.name)] = syn6(tg.Behind(n, tg.ExtHeader{Proto: e.proto}))
		}
	}
	networks["one of each"] = syn6(behindAll(tg.HopByHop, tg.DestOpts, tg.Routing, tg.FragmentHdr, tg.AH, tg.Mobility))
	for network, base := range networks {
		for options := 0; options <= 40; options += 4 {
			for _, data := range []int{0, 1, 2, 3, 1000} {
				p := base.With(func(p *tg.Packet) { p.TCPOptions, p.Payload = tg.NOP(options), make([]byte, data) })
				all[fmt.Sprintf("%s, %d bytes of options, %d of data", network, options, data)] = p
			}
		}
	}
	return all
}

// resetTags are the link headers, by how many tags there are.
var resetTags = [][]uint16{nil, {tg.TPID8021Q}, {tg.TPID8021AD}, {tg.TPID8021AD, tg.TPID8021Q}, {tg.TPID8021Q, tg.TPID8021Q}}

func TestResetAnswersEveryShape(t *testing.T) {
	l := newResetLab(t)
	shapes := resetShapes()
	for name, p := range shapes {
		for _, tags := range resetTags {
			p := p.With(tg.Tagged(tags...))
			for _, h := range resetHooks {
				if h == resetL3 && tags != nil {
					continue
				}
				l.mustAnswer(h, p, ebpf.RunOptions{}, fmt.Sprintf("%s, tags %x", name, tags))
			}
		}
	}
	if len(shapes) < 3000 {
		t.Errorf("only %d shapes", len(shapes))
	}
}

// What of the SYN finds its way into the answer, and what does not.
func TestResetAnswersEveryValue(t *testing.T) {
	l := newResetLab(t)
	r := rand.New(rand.NewPCG(testSeed(t), 8))
	for range 20_000 {
		p := syn4()
		if r.IntN(2) == 0 {
			p = syn6()
		}
		p = p.With(func(p *tg.Packet) {
			src, dst := p.Src.AsSlice(), p.Dst.AsSlice()
			for i := range src[1:] { // the first byte keeps it a host
				src[1+i], dst[1+i] = byte(r.Uint32()), byte(r.Uint32())
			}
			p.Src, _ = netip.AddrFromSlice(src)
			p.Dst, _ = netip.AddrFromSlice(dst)
			p.SrcPort, p.DstPort, p.Seq = uint16(r.Uint32()), uint16(r.Uint32()), r.Uint32()|-(r.Uint32()&1)
			p.TOS, p.TTL, p.Window = uint8(r.Uint32()), uint8(r.Uint32()), uint16(r.Uint32())
			p.TCPFlags |= uint8(r.Uint32()) & (tg.PSH | tg.URG | tg.ECE | tg.CWR)
			p.Payload = make([]byte, r.IntN(40))
			p.Trailer = r.IntN(8)
		})
		for _, h := range resetHooks {
			l.mustAnswer(h, p, ebpf.RunOptions{}, "random values")
		}
	}
	for _, seq := range []uint32{0, 1<<32 - 1} {
		for _, p := range []tg.Packet{syn4(), syn6()} {
			p.Seq = seq
			l.mustAnswer(resetXDP, p, ebpf.RunOptions{}, fmt.Sprintf("seq %d", seq))
			l.mustAnswer(resetTC, p, ebpf.RunOptions{}, fmt.Sprintf("seq %d", seq))
		}
	}
}

// A short frame comes filled up to 60 bytes; the answer is as short as it is.
func TestResetDropsPadding(t *testing.T) {
	l := newResetLab(t)
	for _, p := range []tg.Packet{tg.Segment(client4, server4, tg.SYNFlag), tg.Segment(client6, server6, tg.SYNFlag)} {
		for _, trailer := range []int{0, 1, 6, 46} {
			p.Trailer = trailer
			l.mustAnswer(resetXDP, p, ebpf.RunOptions{}, fmt.Sprintf("%d bytes of padding", trailer))
			l.mustAnswer(resetTC, p, ebpf.RunOptions{}, fmt.Sprintf("%d bytes of padding", trailer))
		}
	}
}

// neverAnswered are changes to a good SYN, of either family, after which it gets no answer.
func neverAnswered() map[string]tg.Mutation {
	all := map[string]tg.Mutation{
		"first fragment":        tg.Fragmented(0, true),
		"land":                  func(p *tg.Packet) { p.Src, p.SrcPort = p.Dst, p.DstPort },
		"to broadcast":          func(p *tg.Packet) { p.DstMAC = [6]byte{255, 255, 255, 255, 255, 255} },
		"to a multicast MAC":    func(p *tg.Packet) { p.DstMAC[0] |= 1 },
		"from a multicast MAC":  func(p *tg.Packet) { p.SrcMAC[0] |= 1 },
		"land, with IP options": func(p *tg.Packet) { p.Src, p.SrcPort, p.IPv4Options = p.Dst, p.DstPort, 8 },
	}
	for _, s := range []string{
		"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.255.255.255", "255.255.255.255",
		"::", "::1", "::c000:207", "::ffff:192.0.2.7", "ff00::", "ff02::1", "ffff::1",
	} {
		addr := netip.MustParseAddr(s)
		all["from "+s] = func(p *tg.Packet) { p.Src = addr }
		all["to "+s] = func(p *tg.Packet) { p.Dst = addr }
	}
	return all
}

func TestResetNeverAnswers(t *testing.T) {
	l := newResetLab(t)
	for _, good := range []tg.Packet{syn4(), syn6()} {
		for name, mutate := range neverAnswered() {
			p := good.With(mutate)
			if p.Src.BitLen() != p.Dst.BitLen() {
				continue
			}
			for _, h := range resetHooks {
				if h == resetL3 && strings.Contains(name, "MAC") || h == resetL3 && name == "to broadcast" {
					continue
				}
				if verdict, _, err := l.run(h, ebpf.RunOptions{Data: p.Bytes()}); err != nil || verdict != "drop" {
					t.Errorf("%s %s: %s, %v; want drop", h, name, verdict, err)
				}
			}
		}
	}
}

// Next to what is never answered.
func TestResetAnswersNeighbours(t *testing.T) {
	l := newResetLab(t)
	for _, s := range []string{
		"1.0.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255", "240.0.0.1", "255.255.255.254", "10.0.0.255",
		"::1:0:0", "::1:0:0:0", "0:1::", "100::", "64:ff9b::c000:207", "fe80::1", "fe00::", "::fffe:c000:207", "::ffff:0:c000:207",
	} {
		addr := netip.MustParseAddr(s)
		p := syn6()
		if addr.Is4() {
			p = syn4()
		}
		for _, h := range resetHooks {
			l.mustAnswer(h, p.With(func(p *tg.Packet) { p.Src = addr }), ebpf.RunOptions{}, "from "+s)
			l.mustAnswer(h, p.With(func(p *tg.Packet) { p.Dst = addr }), ebpf.RunOptions{}, "to "+s)
			l.mustAnswer(h, p.With(func(p *tg.Packet) { p.Src, p.Dst = addr, addr }), ebpf.RunOptions{}, "from and to "+s)
		}
	}
	for _, p := range []tg.Packet{syn4(), syn6()} {
		l.mustAnswer(resetXDP, p.With(tg.From(p.DstPort)), ebpf.RunOptions{}, "equal ports")
		l.mustAnswer(resetXDP, p.With(tg.From(0)), ebpf.RunOptions{}, "from port 0")
	}
}

// Cut at every byte: the answer, or a packet that is no SYN to anybody and is as it was.
func TestResetTruncatedAtEveryByte(t *testing.T) {
	l := newResetLab(t)
	for _, p := range []tg.Packet{
		syn4(), syn4(tg.Tagged(tg.TPID8021Q)), syn4(func(p *tg.Packet) { p.IPv4Options = 40 }),
		syn6(), syn6(tg.Tagged(tg.TPID8021AD, tg.TPID8021Q)), syn6(tg.Behind(4, tg.ExtHeader{Proto: tg.DestOpts})),
	} {
		for _, h := range resetHooks {
			l.tryTruncated(h, p.With(func(p *tg.Packet) { p.Payload, p.Trailer = make([]byte, 9), 5 }))
		}
	}
}

func (l *resetLab) tryTruncated(h resetHook, p tg.Packet) {
	l.t.Helper()
	if h == resetL3 && len(p.VLANs) > 0 {
		return
	}
	frame := p.Bytes()
	for n := 14; n <= len(frame); n++ {
		verdict, out, err := l.run(h, ebpf.RunOptions{Data: frame[:n]})
		if errors.Is(err, unix.EINVAL) && h != resetXDP && n < 14+40 {
			continue // newer kernels make no skb of so little
		}
		// Without link header the 14 bytes in front of it count as part of the packet: Program.Run puts them there.
		whole := n >= len(frame)-p.Trailer || h == resetL3 && n >= len(frame)-p.Trailer-14
		if whole && (err != nil || verdict != "answer" || !bytes.Equal(out[14:], AnswerTo(l.t, p)[14:])) {
			l.t.Errorf("%s: %d bytes of %x: %s, %v", h, n, frame, verdict, err)
		}
		if !whole && (err != nil || verdict != "pass" || !bytes.Equal(out, frame[:n])) {
			l.t.Errorf("%s: %d bytes of %x: %s, %v; want it untouched", h, n, frame, verdict, err)
		}
	}
}

// Frames of several buffers: much data, and headers that lie far behind the first page.
func TestResetInSeveralBuffers(t *testing.T) {
	l := newResetLab(t)
	jumbo := func(p *tg.Packet) { p.Payload = make([]byte, 8900) }
	far := tg.Behind(5, tg.ExtHeader{Proto: tg.DestOpts, Len: 2048})
	for _, p := range []tg.Packet{syn4(jumbo), syn6(jumbo), syn6(far), syn6(far, jumbo), syn6(far, tg.Tagged(tg.TPID8021Q))} {
		l.mustAnswer(resetXDP, p, ebpf.RunOptions{}, "many pages")
	}
}

// A driver may leave nothing but the link header in the first buffer, and cut anywhere.
func TestResetWithTinyFirstBuffer(t *testing.T) {
	l := newResetLab(t)
	for _, p := range []tg.Packet{
		syn4(), syn4(tg.Tagged(tg.TPID8021Q)), syn4(func(p *tg.Packet) { p.IPv4Options = 40 }),
		syn6(), syn6(tg.Tagged(tg.TPID8021AD, tg.TPID8021Q)), syn6(tg.Behind(4, tg.ExtHeader{Proto: tg.DestOpts})),
	} {
		frame := p.Bytes()
		for first := 14; first < len(frame); first++ {
			context := make([]byte, 24) // struct xdp_md
			binary.NativeEndian.PutUint32(context[4:], uint32(first))
			l.mustAnswer(resetXDP, p, ebpf.RunOptions{Context: context}, fmt.Sprintf("%d bytes in the first buffer", first))
		}
	}
}

// A checksum that the hardware made of the whole packet stays one. Shapes that are shortened lose it
// to the kernel, so these are those that are not.
func TestResetKeepsChecksumComplete(t *testing.T) {
	l := newResetLab(t)
	_, _, err := l.run(resetTC, ebpf.RunOptions{Data: syn4().Bytes(), Flags: checksumComplete})
	if errors.Is(err, unix.EINVAL) && !kernelFrom(t, 6, 18) {
		t.Skip("Program.Run makes CHECKSUM_COMPLETE on Linux 6.18, if not before")
	}
	bare := func(p *tg.Packet) { p.TCPOptions = nil }
	packets := []tg.Packet{syn4(bare), syn6(bare)}
	for options := 4; options <= 40; options += 4 {
		packets = append(packets, syn4(bare, func(p *tg.Packet) { p.IPv4Options = options }))
	}
	for n := range 8 {
		packets = append(packets, syn6(bare, tg.Behind(1+n, tg.ExtHeader{Proto: tg.DestOpts})))
	}
	for _, p := range packets {
		for seq := range uint32(100) {
			p.Seq = seq * 0x01234567
			l.mustAnswer(resetTC, p, ebpf.RunOptions{Flags: checksumComplete}, "complete")
			l.mustAnswer(resetL3, p, ebpf.RunOptions{Flags: checksumComplete}, "complete")
		}
	}
}

// The functions must fit under a program that has its own stages: the log says what they cost.
func TestResetVerifierCost(t *testing.T) {
	testenv.RequireRoot(t)
	for _, h := range resetHooks {
		prog, err := loadReset(h, 0, ebpf.LogLevelStats)
		must(t, err)
		defer prog.Close()
		found := processed.FindStringSubmatch(prog.VerifierLog)
		if found == nil {
			t.Fatalf("the kernel did not say what it cost: %q", prog.VerifierLog)
		}
		t.Logf("%s: %s instructions, %q", h, found[1], regexp.MustCompile("stack depth.*").FindString(prog.VerifierLog))
		if n, _ := strconv.Atoi(found[1]); n > 20_000 {
			t.Errorf("%s: %d instructions", h, n)
		}
	}
}
