// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// tuple is who connects to whom.
type tuple struct{ from, to netip.AddrPort }

// fuzzWire is the kernel's own stack behind a veth, with a listener for each family and no program: what
// it answers with a SYN-ACK is a new connection, whatever any parser takes it for.
type fuzzWire struct {
	*testenv.Pair
	t               *testing.T
	index           int
	sender, sniffer int
	listener        map[bool]netip.AddrPort // by whether it is IPv4
	servers         []*testenv.Server
	macs            tg.Mutation
	marks           uint16
}

func newFuzzWire(t *testing.T) *fuzzWire {
	t.Helper()
	w := &fuzzWire{Pair: testenv.NewPair(t, testenv.PairOptions{}), t: t, listener: map[bool]netip.AddrPort{}}
	for _, a := range []netip.Addr{w.ServerIP4, w.ServerIP6} {
		s := testenv.NewServer(t, w.Server, netip.AddrPortFrom(a, 0), testenv.ServerOptions{})
		w.listener[a.Is4()], w.servers = s.Addr(), append(w.servers, s)
	}
	if err := errors.Join(w.configure(), w.Client.Do(w.open)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(w.sender); unix.Close(w.sniffer) })
	return w
}

// configure lets the client end by RST what it is answered at its own addresses. What is answered elsewhere
// is not answered again, and a fragment waits a second for others.
func (w *fuzzWire) configure() error {
	for _, p := range []string{"10.77.128.0/17", "fd77::8000/113"} {
		if err := w.AddClientPrefix(netip.MustParsePrefix(p)); err != nil {
			return err
		}
	}
	for _, key := range []string{"net.ipv4.ipfrag_time", "net.ipv6.ip6frag_time"} {
		if err := w.Server.SetSysctl(key, "1"); err != nil {
			return err
		}
	}
	if err := w.Server.SetSysctl("net.ipv4.tcp_synack_retries", "0"); err != nil {
		return err
	}
	from, err := w.Client.MAC(w.ClientIf)
	if err != nil {
		return err
	}
	to, err := w.Server.MAC(w.ServerIf)
	if err != nil {
		return err
	}
	w.macs = tg.MACs(from, to)
	w.index, err = w.ClientIndex()
	return err
}

func (w *fuzzWire) open() (err error) {
	if w.sender, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if w.sniffer, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	return errors.Join(
		unix.SetsockoptInt(w.sender, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(w.sniffer, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(w.sniffer, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(w.sniffer, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}),
		unix.Bind(w.sniffer, &unix.SockaddrLinklayer{Protocol: all, Ifindex: w.index}),
	)
}

// aim makes a generator's frames go from the client to the listeners.
func (w *fuzzWire) aim(g *generator) {
	g.macs, g.server = w.macs, w.listener
	g.client = map[bool]netip.AddrPort{true: netip.AddrPortFrom(w.ClientIP4, 0), false: netip.AddrPortFrom(w.ClientIP6, 0)}
}

// longestSent is what a veth sends, link header included.
const longestSent = 1514

// send puts a frame on the wire. Where its TCP header can be found, by the sequence number that the
// generator gives, the kernel is told that the checksum is still to be filled in: it then takes any for
// right, so that nothing but the headers decides what becomes of the frame.
func (w *fuzzWire) send(frame []byte) {
	w.t.Helper()
	header := make([]byte, 10) // struct virtio_net_hdr
	if at := tcpIn(frame); at > 0 {
		header[0] = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
		binary.NativeEndian.PutUint16(header[6:], uint16(at))
		binary.NativeEndian.PutUint16(header[8:], 16)
	}
	err := unix.Sendto(w.sender, append(header, frame...), 0, &unix.SockaddrLinklayer{Ifindex: w.index})
	if err != nil {
		w.t.Fatalf("send %x: %v", frame, err)
	}
}

// tcpIn is where a TCP header begins that the generator has made and that is whole up to its checksum; 0
// for none.
func tcpIn(frame []byte) int {
	for at := 14; at+18 <= len(frame); at++ {
		if binary.BigEndian.Uint32(frame[at+4:]) == generatedSeq {
			return at
		}
	}
	return 0
}

// generatedSeq is the sequence number of every segment that trafficgen makes.
const generatedSeq = 0x10203040

// mend makes the checksum of an IPv4 header right.
func mend(frame []byte) []byte {
	at := network(frame)
	if at+20 > len(frame) || word(frame, at-2) != tg.EtherTypeIPv4 {
		return frame
	}
	header := frame[at:min(len(frame), at+max(20, 4*int(frame[at]&15)))]
	header[10], header[11] = 0, 0
	sum := 0
	for n := 0; n+1 < len(header); n += 2 {
		sum += word(header, n)
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
	return frame
}

// mark sends a plain SYN of each family, from a port that nothing else uses: with their answers there are
// all that come.
func (w *fuzzWire) mark() map[tuple]bool {
	w.t.Helper()
	w.marks = w.marks%4000 + 1
	marks := map[tuple]bool{}
	for _, client := range []netip.Addr{w.ClientIP4, w.ClientIP6} {
		m := tuple{netip.AddrPortFrom(client, 60000+w.marks), w.listener[client.Is4()]}
		marks[m] = true
		w.send(tg.SYN(m.from, m.to).With(w.macs).Bytes())
	}
	return marks
}

// answers returns the connections that were answered since the last call.
func (w *fuzzWire) answers() map[tuple]int {
	w.t.Helper()
	marks, out := w.mark(), map[tuple]int{}
	buffer := make([]byte, 1<<16)
	for len(marks) > 0 {
		n, _, err := unix.Recvfrom(w.sniffer, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			w.t.Fatalf("waited for the answer to a plain SYN: %v", err)
		}
		switch found, ok := synACK(buffer[:n]); {
		case !ok:
		case marks[found]:
			delete(marks, found)
		default:
			out[found]++
		}
	}
	return out
}

// tuple is who sends a TCP segment to whom.
func (r reference) tuple(frame []byte) tuple {
	at := network(frame)
	to := frame[at+16 : at+20]
	if len(r.source) == 16 {
		to = frame[at+24 : at+40]
	}
	sender, _ := netip.AddrFromSlice(r.source)
	receiver, _ := netip.AddrFromSlice(to)
	return tuple{netip.AddrPortFrom(sender, r.ports[0]), netip.AddrPortFrom(receiver, r.ports[1])}
}

// synACK reads a SYN-ACK: who had asked whom.
func synACK(frame []byte) (asked tuple, ok bool) {
	r := referEthernet(frame, false)
	if r.why != whySYNACK {
		return tuple{}, false
	}
	answer := r.tuple(frame)
	return tuple{answer.to, answer.from}, true
}
