// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/quic-go/quic-go"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// quicDeadline bounds a handshake, on a slow VM that loses packets too.
const quicDeadline = 30 * time.Second

// quicWire is a QUIC server behind quic.h, and a client, in namespaces.
type quicWire struct {
	*testenv.Pair
	t *testing.T
	// counting is on the server's interface, losing on the client's.
	counting, losing *quicLab
	server           netip.AddrPort
	accepted         sync.WaitGroup
}

// quicCase is how client and server are set up.
type quicCase struct {
	name    string
	retry   bool
	version quic.Version
	// idLength is how long the ids are that the server chooses; quic-go takes 4 for 0.
	idLength int
	// long makes the ClientHello too long for two Initials; certificate the server's flight.
	long bool
	// ipv6 is the family.
	ipv6 bool
	// shared: all connections from one port.
	shared bool
	// lost and lostAnswers are how many datagrams with long headers are lost behind the limiter, and of
	// the server's answers.
	lost, lostAnswers uint64
}

func newQuicWire(t *testing.T, c quicCase) *quicWire {
	t.Helper()
	w := &quicWire{Pair: testenv.NewPair(t, testenv.PairOptions{}), t: t, counting: newQuicLab(t), losing: newQuicLab(t)}
	w.attach(w.counting, w.Server, w.ServerIf)
	w.attach(w.losing, w.Client, w.ClientIf)
	must(t, w.counting.objects.LiveDrop.Set(c.lost))
	must(t, w.losing.objects.LiveDrop.Set(c.lostAnswers))
	w.serve(c)
	return w
}

func (w *quicWire) attach(l *quicLab, ns *testenv.Namespace, ifname string) {
	w.t.Helper()
	index, err := ns.Index(ifname)
	must(w.t, err)
	must(w.t, ns.Do(func() error {
		attached, err := link.AttachXDP(link.XDPOptions{Program: l.objects.QuicLiveXdp, Interface: index})
		if err == nil {
			w.t.Cleanup(func() { attached.Close() })
		}
		return err
	}))
}

// socket is a UDP socket in a namespace, for as long as the test.
func (w *quicWire) socket(ns *testenv.Namespace, at netip.AddrPort) net.PacketConn {
	w.t.Helper()
	var conn net.PacketConn
	must(w.t, ns.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	}))
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

// transport is what connections run over, closed before its socket.
func (w *quicWire) transport(conn net.PacketConn, idLength int) *quic.Transport {
	tr := &quic.Transport{Conn: conn, ConnectionIDLength: idLength}
	w.t.Cleanup(func() { tr.Close() })
	return tr
}

func (w *quicWire) addresses(ipv6 bool) (server, client netip.Addr) {
	if ipv6 {
		return w.ServerIP6, w.ClientIP6
	}
	return w.ServerIP4, w.ClientIP4
}

func (w *quicWire) serve(c quicCase) {
	w.t.Helper()
	addr, _ := w.addresses(c.ipv6)
	w.server = netip.AddrPortFrom(addr, 443)
	tr := w.transport(w.socket(w.Server, w.server), c.idLength)
	tr.VerifySourceAddress = func(net.Addr) bool { return c.retry }
	config := &tls.Config{Certificates: []tls.Certificate{quicCertificate(w.t)}, NextProtos: []string{"synward"}}
	listener, err := tr.Listen(config, c.config())
	must(w.t, err)
	w.accepted.Add(1)
	go func() {
		defer w.accepted.Done()
		for {
			if _, err := listener.Accept(context.Background()); err != nil {
				return
			}
		}
	}()
	w.t.Cleanup(func() { listener.Close(); w.accepted.Wait() })
}

func (c quicCase) config() *quic.Config {
	config := &quic.Config{HandshakeIdleTimeout: quicDeadline, MaxIdleTimeout: quicDeadline}
	if c.version != 0 {
		config.Versions = []quic.Version{c.version}
	}
	return config
}

func quicCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"server"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// hello is the client's side of TLS. Post-quantum keys alone make the ClientHello two Initials long.
func (c quicCase) hello() *tls.Config {
	config := &tls.Config{InsecureSkipVerify: true, ServerName: "server", NextProtos: []string{"synward"}}
	for i := 0; c.long && i < 150; i++ {
		config.NextProtos = append(config.NextProtos, fmt.Sprintf("a protocol that nobody has, %03d", i))
	}
	return config
}

// dialer gives each connection a port of its own, or all the same one.
func (w *quicWire) dialer(c quicCase) func() *quic.Transport {
	_, addr := w.addresses(c.ipv6)
	own := func() *quic.Transport { return w.transport(w.socket(w.Client, netip.AddrPortFrom(addr, 0)), 0) }
	if !c.shared {
		return own
	}
	one := own()
	return func() *quic.Transport { return one }
}

// connect makes connections at once, up to limit at a time, and closes them.
func (w *quicWire) connect(c quicCase, count uint64, limit int) error {
	w.t.Helper()
	dial := w.dialer(c)
	errs := make([]error, count)
	var all sync.WaitGroup
	slots := make(chan struct{}, limit)
	for i := range count {
		tr := dial()
		all.Add(1)
		go func() {
			defer all.Done()
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = w.connectOnce(tr, c)
		}()
	}
	all.Wait()
	return errors.Join(errs...)
}

// connectOnce ends when the client knows that the server has all that it needs for the handshake.
func (w *quicWire) connectOnce(tr *quic.Transport, c quicCase) error {
	ctx, cancel := context.WithTimeout(context.Background(), quicDeadline)
	defer cancel()
	conn, err := tr.Dial(ctx, net.UDPAddrFromAddrPort(w.server), c.hello(), c.config())
	if err != nil {
		return err
	}
	defer conn.CloseWithError(0, "")
	stream, err := conn.OpenUniStreamSync(ctx)
	if err != nil {
		return err
	}
	if _, err := stream.Write([]byte("hello")); err != nil {
		return err
	}
	return stream.Close()
}

// counts are what the server's side saw so far of datagrams that may ask.
func (w *quicWire) counts() (fresh, known uint64) {
	w.t.Helper()
	must(w.t, w.counting.objects.LiveNew.Get(&fresh))
	must(w.t, w.counting.objects.LiveKnown.Get(&known))
	return fresh, known
}

// However clients and servers are set up, a connection counts once. Now and then this client takes a
// third id for its last Initial, and two CPUs see one connection at once: then it counts twice.
func TestQuicLiveCountsEachConnectionOnce(t *testing.T) {
	const count = uint64(20)
	var made, counted uint64
	for _, c := range []quicCase{
		{name: "short server ids"},
		{name: "server ids of 8", idLength: 8},
		{name: "server ids of 20", idLength: 20},
		{name: "version 2", version: quic.Version2, idLength: 8},
		{name: "IPv6", ipv6: true, idLength: 8},
		{name: "long ClientHello", long: true, idLength: 8},
		{name: "Retry", retry: true, idLength: 8},
		{name: "Retry, version 2, long ClientHello, IPv6", retry: true, version: quic.Version2, long: true, ipv6: true, idLength: 20},
		{name: "one port", shared: true, idLength: 8},
		{name: "one port, Retry", shared: true, retry: true, idLength: 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newQuicWire(t, c)
			made += count
			must(t, w.connect(c, count, 4))
			fresh, known := w.counts()
			t.Logf("%d connections: %d new, %d known", count, fresh, known)
			if fresh < count || fresh > 2*count || known < count {
				t.Errorf("%d connections counted as %d", count, fresh)
			}
			counted += fresh
		})
	}
	t.Logf("%d connections counted as %d", made, counted)
	if counted > made+made/4 {
		t.Errorf("%d connections counted as %d", made, counted)
	}
}

// Datagrams that are lost behind the limiter, and answers that are, are sent again: still one, or one
// more for a third id, see above.
func TestQuicLiveCountsRetransmissionsOnce(t *testing.T) {
	for _, c := range []quicCase{
		{name: "the first Initial", lost: 1, idLength: 8},
		{name: "the first flight", lost: 2, idLength: 8},
		{name: "two flights", lost: 4, idLength: 8},
		{name: "the first flight, long ClientHello", lost: 4, long: true, idLength: 8},
		{name: "the answer", lostAnswers: 1, idLength: 8},
		{name: "three answers", lostAnswers: 3, idLength: 20},
		{name: "the first flight, Retry", lost: 2, retry: true, idLength: 8},
		{name: "answers, Retry", lostAnswers: 3, retry: true, idLength: 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newQuicWire(t, c)
			must(t, w.connect(c, 1, 1))
			fresh, known := w.counts()
			var left uint64
			must(t, w.counting.objects.LiveDrop.Get(&left))
			t.Logf("%d new, %d known", fresh, known)
			if fresh < 1 || fresh > 2 || left != 0 {
				t.Errorf("one connection counted as %d, %d of %d were not lost", fresh, left, c.lost)
			}
		})
	}
}

// A connection that is refused is not made, each of its datagrams is judged, and once it is let through
// it counts once.
func TestQuicLiveRefused(t *testing.T) {
	c := quicCase{idLength: 8}
	w := newQuicWire(t, c)
	must(t, w.counting.objects.LiveRefuse.Set(uint32(1)))
	done := make(chan error, 1)
	go func() { done <- w.connect(c, 1, 1) }()
	refused := func() uint64 { fresh, _ := w.counts(); return fresh }
	testenv.WaitFor(t, quicDeadline, "a client to send again", func() bool { return refused() >= 4 })
	if _, known := w.counts(); known != 0 {
		t.Errorf("%d datagrams of a refused connection passed", known)
	}
	must(t, w.counting.objects.LiveNew.Set(uint64(0)))
	must(t, w.counting.objects.LiveRefuse.Set(uint32(0)))
	must(t, <-done)
	if fresh, known := w.counts(); fresh > 2 || fresh < 1 {
		t.Errorf("let through, it counts as %d, with %d known", fresh, known)
	}
}

// A server that answers nobody: all that clients send in a whole handshake timeout counts once.
func TestQuicLiveSilentServer(t *testing.T) {
	c := quicCase{lost: 1 << 40}
	w := newQuicWire(t, c)
	_, addr := w.addresses(false)
	tr := w.transport(w.socket(w.Client, netip.AddrPortFrom(addr, 0)), 0)
	config := c.config()
	config.HandshakeIdleTimeout = 5 * time.Second
	_, err := tr.Dial(context.Background(), net.UDPAddrFromAddrPort(w.server), c.hello(), config)
	var timeout *quic.IdleTimeoutError
	if !errors.As(err, &timeout) {
		t.Fatalf("dial: %v, want a timeout", err)
	}
	fresh, known := w.counts()
	t.Logf("%d new, %d known in 5 s", fresh, known)
	if fresh != 1 || known < 3 {
		t.Errorf("counted as %d, with %d known", fresh, known)
	}
}

// What quic_payload says of odd datagrams is what the kernel hands to a server.
func TestQuicKernelTakes(t *testing.T) {
	w := newQuicWire(t, quicCase{})
	from, err := w.Client.MAC(w.ClientIf)
	must(t, err)
	to, err := w.Server.MAC(w.ServerIf)
	must(t, err)
	for name, ipv6 := range map[string]bool{"IPv4": false, "IPv6": true} {
		server, client := w.addresses(ipv6)
		at := netip.AddrPortFrom(server, 5000)
		conn := w.socket(w.Server, at)
		whole := initial4().With(tg.MACs(from, to), func(p *tg.Packet) { p.Src, p.Dst, p.DstPort = client, server, at.Port() })
		head, rest := whole.Split(8)
		unsummed := func(p *tg.Packet) { p.Checksum = new(uint16) }
		w.expectPayload(conn, name+" whole", 1200, whole)
		w.expectPayload(conn, name+" in fragments, the first with the UDP header only", 1200, head, rest)
		w.expectPayload(conn, name+" UDP length longer than the packet", 0, whole.With(udpLength(1209), unsummed))
		w.expectPayload(conn, name+" UDP length 7", 0, whole.With(udpLength(7)))
		if ipv6 {
			got := w.received(conn, whole.With(udpLength(0)))
			t.Logf("%s UDP length 0: the server got %d bytes", name, got)
			if strings.HasPrefix(kernelSeries(t), "6.") && got != 1200 {
				t.Error("it did up to 6.18, and 7.3 drops it: quic_payload need not take it any more where no kernel does")
			}
			continue
		}
		w.expectPayload(conn, name+" UDP length of 1199 bytes", 1199, whole.With(udpLength(1207), unsummed))
		w.expectPayload(conn, name+" UDP length 0", 0, whole.With(udpLength(0), unsummed))
	}
}

// expectPayload sends frames to a socket and wants it to be handed so many bytes; 0 is nothing at all.
func (w *quicWire) expectPayload(conn net.PacketConn, what string, want int, frames ...tg.Packet) {
	w.t.Helper()
	if got := w.received(conn, frames...); got != want {
		w.t.Errorf("%s: the server got %d bytes, want %d", what, got, want)
	}
}

// received is how many bytes of these frames a socket is handed before a good datagram that follows them.
func (w *quicWire) received(conn net.PacketConn, frames ...tg.Packet) (bytes int) {
	w.t.Helper()
	index, err := w.ClientIndex()
	must(w.t, err)
	last := frames[0].With(payload([]byte("end")), func(p *tg.Packet) { p.UDPLength, p.Checksum, p.Transport, p.Fragment = nil, nil, nil, nil })
	for _, f := range append(frames, last) {
		must(w.t, tg.Send(w.Client, index, f.Bytes()))
	}
	for buffer := make([]byte, 2000); ; {
		must(w.t, conn.SetReadDeadline(time.Now().Add(quicDeadline)))
		n, _, err := conn.ReadFrom(buffer)
		must(w.t, err)
		if n == len("end") {
			return bytes
		}
		bytes += n
	}
}
