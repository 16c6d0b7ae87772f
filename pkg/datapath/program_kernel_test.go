// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// longestFrame is what a veth sends, link header included.
const longestFrame = 1514

// stack is the kernel's own stack behind a veth, with a listener and no program: what it answers with
// a SYN-ACK is a new connection, whatever our parser takes it for.
type stack struct {
	*testenv.Pair
	t        *testing.T
	index    int
	sniffer  int
	macs     tg.Mutation
	listener map[bool]netip.AddrPort // by whether it is IPv4
}

func newStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{Pair: testenv.NewPair(t, testenv.PairOptions{}), t: t, listener: map[bool]netip.AddrPort{}}
	for _, a := range []netip.Addr{s.ServerIP4, s.ServerIP6} {
		s.listener[a.Is4()] = testenv.NewServer(t, s.Server, netip.AddrPortFrom(a, 0), testenv.ServerOptions{}).Addr()
	}
	from, err := s.Client.MAC(s.ClientIf)
	must(t, err)
	to, err := s.Server.MAC(s.ServerIf)
	must(t, err)
	s.macs = tg.MACs(from, to)
	s.index, err = s.ClientIndex()
	must(t, err)
	must(t, s.Client.Do(s.sniff))
	t.Cleanup(func() { unix.Close(s.sniffer) })
	return s
}

func (s *stack) sniff() (err error) {
	if s.sniffer, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	return errors.Join(
		unix.SetsockoptInt(s.sniffer, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(s.sniffer, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}),
		unix.Bind(s.sniffer, &unix.SockaddrLinklayer{Protocol: all, Ifindex: s.index}),
	)
}

// to aims a packet at the listener, from the client's address and a port of its own.
func (s *stack) to(p tg.Packet, port uint16) tg.Packet {
	src := s.ClientIP6
	if p.Src.Is4() {
		src = s.ClientIP4
	}
	dst := s.listener[p.Src.Is4()]
	return p.With(s.macs, func(p *tg.Packet) { p.Src, p.Dst, p.DstPort, p.SrcPort = src, dst.Addr(), dst.Port(), port })
}

// answered sends frames and returns the ports that were answered by a SYN-ACK. Plain SYNs of both
// families come last: with their answers there are all that come.
func (s *stack) answered(frames [][]byte) map[uint16]bool {
	s.t.Helper()
	last := []uint16{65001, 65002}
	frames = append(frames, s.to(syn4(), last[0]).Bytes(), s.to(syn6(), last[1]).Bytes())
	must(s.t, tg.Send(s.Client, s.index, frames...))
	out := map[uint16]bool{}
	frame := make([]byte, 65536)
	for !out[last[0]] || !out[last[1]] {
		n, _, err := unix.Recvfrom(s.sniffer, frame, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			s.t.Fatalf("waited for the answer to a plain SYN: %v", err)
		}
		if port := s.synACK(frame[:n]); port != 0 {
			out[port] = true
		}
	}
	for _, port := range last {
		delete(out, port)
	}
	return out
}

// synACK is the port that a listener's SYN-ACK goes to, 0 for any other frame.
func (s *stack) synACK(frame []byte) uint16 {
	for is4, server := range s.listener {
		tcp := 14 + 40
		if is4 {
			tcp = 14 + 20
		}
		if len(frame) >= tcp+20 && frame[tcp+13]&(tg.SYNFlag|tg.ACK) == tg.SYNFlag|tg.ACK && binary.BigEndian.Uint16(frame[tcp:]) == server.Port() {
			return binary.BigEndian.Uint16(frame[tcp+2:])
		}
	}
	return 0
}

// What a program passes without counting it as a new connection, the kernel must not take for one.
func TestKernelAnswersNothingThatPassesUncounted(t *testing.T) {
	s := newStack(t)
	var frames [][]byte
	names := map[uint16]string{}
	answers := 0
	for topic, rows := range topics() {
		for _, r := range rows {
			if r.segments > 0 || !r.packet.Src.IsValid() || r.want.action == limiterActionACTION_DROP || len(r.bytes()) > longestFrame {
				continue
			}
			port := uint16(10000 + len(frames))
			r.packet = s.to(r.packet, port)
			names[port] = fmt.Sprintf("%s/%s, which ends as %v", topic, r.name, r.want)
			if r.want == isNew {
				names[port] = ""
				answers++
			}
			frames = append(frames, r.bytes())
		}
	}
	got := s.answered(frames)
	for port := range got {
		if names[port] != "" {
			t.Errorf("the kernel answers %s", names[port])
		}
	}
	if len(got) < answers/3 {
		t.Errorf("only %d of %d new connections were answered: the test shows nothing", len(got), answers)
	}
}

// The kernel answers a SYN that programs refuse for hiding: behind 9, 40 and 100 headers, and in two
// fragments of which the first is too short for its flags. So the refusals matter. Kernels from 7 on may
// cap the headers between 9 and 40, and 7.3 does: there it is only told.
func TestKernelAnswersWhatIsRefusedForHiding(t *testing.T) {
	s := newStack(t)
	l := newProgramLab(t, frozen{linkHeader: true})
	l.rules(nil)
	port := uint16(20000)
	refused := func(name string, capped bool, packets ...tg.Packet) {
		var frames [][]byte
		stopped := false
		for _, p := range packets {
			frame := s.to(p, port).Bytes()
			frames = append(frames, frame)
			stopped = stopped || l.run(hookXDP, frame, nil).verdict == xdpDrop
		}
		if answered := s.answered(frames)[port]; capped && testenv.KernelMajor(t) >= 7 {
			t.Logf("the kernel answers %s: %v", name, answered)
		} else if !answered {
			t.Errorf("the kernel does not answer %s", name)
		}
		if !stopped {
			t.Errorf("the program passes %s", name)
		}
		port++
	}
	for _, n := range []int{9, 40, 100} {
		refused(fmt.Sprintf("a SYN behind %d headers", n), n > 9, syn6(tg.Behind(n, tg.ExtHeader{Proto: tg.DestOpts})))
	}
	// Split after aiming: the checksum covers the ports and addresses.
	for _, n := range []int{8, 16} {
		first, second := s.to(syn4(), port).Split(n)
		refused(fmt.Sprintf("a SYN cut at %d", n), false, first, second)
	}
	refused("a SYN behind three priority tags", false, syn4(func(p *tg.Packet) { p.VLANs = make([]tg.VLAN, 3) }))
}

// Linux takes a payload length of 0 for "as long as the buffer" when a hop-by-hop header follows,
// jumbo option or not (ip6_rcv_core), and answers.
func TestBugPayloadLengthZeroSlipsPast(t *testing.T) {
	s := newStack(t)
	l := newProgramLab(t, frozen{linkHeader: true})
	hidden := []tg.Mutation{tg.Behind(1, tg.ExtHeader{Proto: tg.HopByHop}), func(p *tg.Packet) { p.IPLength = new(uint16) }}
	frame := s.to(syn6(hidden...), 30000).Bytes()
	answered := s.answered([][]byte{frame})[30000]
	for _, h := range bothHooks {
		l.rules(onceADay(1))
		for range 3 {
			l.run(h, frame, nil)
		}
		passes := l.run(h, frame, nil).verdict == isNew.verdict(h)
		if answered && passes {
			t.Errorf("%s passes the fourth SYN of a source that may have one, and the kernel answers it", h)
		}
		l.add(Block, Entry{Prefix: netip.PrefixFrom(s.ClientIP6, 128)})
		if l.run(h, frame, nil).verdict == isNew.verdict(h) {
			t.Errorf("%s passes a SYN of a blocked source, answered by the kernel: %v", h, answered)
		}
		l.clearLists()
		l.emptyMeters()
	}
}
