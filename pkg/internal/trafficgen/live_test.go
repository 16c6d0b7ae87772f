// SPDX-License-Identifier: Apache-2.0

package trafficgen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
)

// sniffer sees what an interface sends and receives, from when it is made.
type sniffer struct {
	t  *testing.T
	fd int
}

func newSniffer(t *testing.T, ns *testenv.Namespace, ifname string) *sniffer {
	t.Helper()
	s := &sniffer{t: t}
	err := ns.Do(func() (err error) {
		index, err := ns.Index(ifname)
		if err != nil {
			return err
		}
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(s.fd) })
		all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
		return errors.Join(
			unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}),
			unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// next returns the first frame that matches; a frame that does not come ends the test.
func (s *sniffer) next(what string, match func(frame []byte) bool) []byte {
	s.t.Helper()
	frame := make([]byte, 65536)
	for end := time.Now().Add(deadline); time.Now().Before(end); {
		n, _, err := unix.Recvfrom(s.fd, frame, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			s.t.Fatalf("waited for %s: %v", what, err)
		}
		if match(frame[:n]) {
			return frame[:n]
		}
	}
	s.t.Fatalf("waited %v for %s", deadline, what)
	return nil
}

// isSYNACK tells an answer of a listener on src to dst.
func isSYNACK(frame []byte, src, dst netip.AddrPort) bool {
	ip, header := 12, 34
	if src.Addr().Is6() {
		ip, header = 8, 54
	}
	size := len(src.Addr().AsSlice())
	return len(frame) >= header+20 && frame[header+13] == SYNFlag|ACK &&
		bytes.Equal(frame[14+ip:14+ip+size], src.Addr().AsSlice()) &&
		bytes.Equal(frame[14+ip+size:14+ip+2*size], dst.Addr().AsSlice()) &&
		be.Uint16(frame[header:]) == src.Port() && be.Uint16(frame[header+2:]) == dst.Port()
}

// plainLab is a pair without XDP, whose server's stack takes what the generator sends.
func plainLab(t *testing.T) *lab {
	return &lab{Pair: testenv.NewPair(t, testenv.PairOptions{GRO: true})}
}

func (l *lab) endpoints(t *testing.T) [][2]netip.AddrPort {
	t.Helper()
	var out [][2]netip.AddrPort
	for server, client := range map[netip.Addr]netip.Addr{l.ServerIP4: l.ClientIP4, l.ServerIP6: l.ClientIP6} {
		s := testenv.NewServer(t, l.Server, netip.AddrPortFrom(server, 0), testenv.ServerOptions{})
		out = append(out, [2]netip.AddrPort{netip.AddrPortFrom(client, 4000), s.Addr()})
	}
	return out
}

func TestListenerAnswersAGeneratedSYN(t *testing.T) {
	l := plainLab(t)
	for _, ends := range l.endpoints(t) {
		client, server := ends[0], ends[1]
		opts := l.options(t, server.Addr())
		opts.Template.DstPort = server.Port()
		// Neighbours of the client: the server's route leads to it, and it drops what is not for it.
		opts.Mix, opts.Packets, opts.Ports = Sources(client.Addr().Next(), 20), 20, Ports{5000, 5000}
		s := newSniffer(t, l.Client, l.ClientIf)
		if _, err := Run(context.Background(), opts); err != nil {
			t.Fatal(err)
		}
		for addr, n := client.Addr().Next(), 0; n < 20; addr, n = addr.Next(), n+1 {
			to := netip.AddrPortFrom(addr, 5000)
			s.next(fmt.Sprintf("SYN-ACK to %s", to), func(f []byte) bool { return isSYNACK(f, server, to) })
		}
	}
}

func TestListenerAnswersCraftedSYNs(t *testing.T) {
	l := plainLab(t)
	index, err := l.ClientIndex()
	if err != nil {
		t.Fatal(err)
	}
	for _, ends := range l.endpoints(t) {
		good := SYN(ends[0], ends[1]).With(MACs(l.macs(t)))
		port := uint16(6000)
		expect := func(name string, packets ...Packet) {
			port++
			from := netip.AddrPortFrom(ends[0].Addr(), port)
			s := newSniffer(t, l.Client, l.ClientIf)
			for _, p := range packets {
				if err := Send(l.Client, index, p.Bytes()); err != nil {
					t.Fatal(err)
				}
			}
			s.next("answer to "+name, func(f []byte) bool { return isSYNACK(f, ends[1], from) })
		}
		next := func(mutations ...Mutation) Packet { return good.With(From(port + 1)).With(mutations...) }
		expect("plain SYN", next())
		first, second := next().Split(24)
		expect("SYN in two fragments", first, second)
		if ends[0].Addr().Is4() {
			// In IPv6 Linux refuses a first fragment without the whole TCP header (RFC 7112).
			first, second = next().Split(8)
			expect("SYN in two fragments, the first of 8 bytes", first, second)
			expect("SYN with options", next(func(p *Packet) { p.IPv4Options = 40 }))
			continue
		}
		expect("SYN behind hop-by-hop", next(Behind(1, ExtHeader{Proto: HopByHop, Len: 24})))
		expect("SYN behind routing", next(Behind(1, ExtHeader{Proto: Routing})))
		expect("SYN in an atomic fragment", next(Behind(1, ExtHeader{Proto: FragmentHdr})))
		expect("SYN behind 9 headers", next(Behind(9, ExtHeader{Proto: DestOpts})))
	}
}

// A generated frame is, byte by byte, what Packet builds for its source, port and sequence number.
func TestGeneratedFramesAreRightToTheByte(t *testing.T) {
	from4, to4 := netip.MustParseAddrPort("10.77.0.2:4000"), netip.MustParseAddrPort("10.77.0.1:7")
	from6, to6 := netip.MustParseAddrPort("[fd77::2]:4000"), netip.MustParseAddrPort("[fd77::1]:7")
	for name, template := range map[string]Packet{
		"syn4":     SYN(from4, to4).With(func(p *Packet) { p.IPv4Options = 12 }),
		"syn6":     SYN(from6, to6).With(Behind(2, ExtHeader{Proto: DestOpts})),
		"vlan":     SYN(from4, to4).With(Tagged(TPID8021AD, TPID8021Q)),
		"quic4":    QUIC(from4, to4, QUICv1, []byte("12345678")),
		"quic6":    QUIC(from6, to6, QUICv2, []byte("12345678")),
		"ping4":    Echo(from4.Addr(), to4.Addr()),
		"ping6":    Echo(from6.Addr(), to6.Addr()),
		"fragment": SYN(from4, to4).With(Fragmented(8, true)),
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			opts := l.options(t, template.Dst)
			opts.Template = template.With(MACs(l.macs(t)))
			opts.Mix, opts.Packets, opts.Seed = Anywhere(prefix("10.0.0.0/8")), 300, 7
			if template.Src.Is6() {
				opts.Mix = Anywhere(prefix("fd77::/64"))
			}
			checkFrames(t, l, opts)
		})
	}
}

// record sends a flood and returns its frames as they arrive, in order.
func (l *lab) record(t *testing.T, opts Options) [][]byte {
	t.Helper()
	l.attach(t, l.capture.RecordFrames)
	opts.CPUs = []int{0} // one queue of the veth, so in order
	if _, err := Run(context.Background(), opts); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, deadline, "all frames", func() bool { return l.total(t) >= opts.Packets })
	out := make([][]byte, opts.Packets)
	for i := range out {
		var frame captureFrame
		if err := l.capture.Frames.Lookup(uint32(i), &frame); err != nil {
			t.Fatal(err)
		}
		out[i] = bytes.Clone(frame.Data[:frame.Len])
	}
	return out
}

func checkFrames(t *testing.T, l *lab, opts Options) {
	t.Helper()
	schedule, err := NewSchedule(opts.Mix, opts.Seed)
	if err != nil {
		t.Fatal(err)
	}
	got := l.record(t, opts)
	_, at := opts.Template.build()
	ports := map[uint16]bool{}
	for k, frame := range got {
		want := opts.Template.With(func(p *Packet) { p.Src = schedule.Source(uint64(k)) })
		if kind, _ := want.kind(); kind == transportTCP || kind == transportUDP {
			want.SrcPort = be.Uint16(frame[at.transport:])
			ports[want.SrcPort] = true
			if kind == transportTCP {
				want.Seq = be.Uint32(frame[at.transport+4:])
			}
		}
		if !bytes.Equal(frame, want.Bytes()) {
			t.Fatalf("frame %d is\n%x, want\n%x", k, frame, want.Bytes())
		}
	}
	if len(ports) != 0 && len(ports) < len(got)/2 {
		t.Errorf("%d different ports in %d frames", len(ports), len(got))
	}
}
