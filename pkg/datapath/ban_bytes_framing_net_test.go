// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// Nothing that a third party has a server send to somebody makes him strike: large answers to datagrams in his name,
// SYN-ACKs, data that nobody acknowledges. The same data bans once it is acknowledged.
func TestNobodyIsFramedByWhatIsSent(t *testing.T) {
	const text = `
version: 1
services:
  - name: web
    listen: [8080/tcp, 9090/udp]
    limits: [{per: source, bytes_out: 10kB/d, ban: {after: 1, within: 1h, for: 1h}}]
`
	eachFloodable(t, func(b *bench, mode datapath.Mode, f family) {
		b.attach(mode, nil)
		b.apply(text)
		to := netip.AddrPortFrom(f.server, 8080)
		listener := b.listen(b.Server, to)
		b.answerLargely(netip.AddrPortFrom(f.server, 9090))

		requests := slices.Repeat([][]byte{[]byte("?")}, 20)
		if err := testenv.SendDatagrams(b.Client, netip.AddrPortFrom(f.beside, 0), f.server, []uint16{9090}, requests...); err != nil {
			b.t.Fatal(err)
		}
		b.mustOwe(f.beside, 9_900)
		b.mustNotHaveStruck("large answers")
		b.forget(f.beside)

		b.forgeSYNs(f.beside, to)
		b.mustOwe(f.beside, 9_900)
		b.mustNotHaveStruck("SYN-ACKs")

		// What is left of the flood may still be answered.
		testenv.WaitFor(b.t, downloadPatience, "a connection", func() bool {
			b.forget(f.beside)
			client, err := testenv.Dial(b.Client, f.beside, to, patience)
			if err == nil {
				b.t.Cleanup(func() { _ = testenv.Abort(client) })
			}
			return err == nil
		})
		if err := listener.(*net.TCPListener).SetDeadline(stalled()); err != nil {
			b.t.Fatal(err)
		}
		server, err := listener.Accept()
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { _ = server.Close() })
		b.mute(f.server, true)
		// No more than a send buffer holds: until somebody acknowledges it, Linux 6.1 has no room for 50 kB.
		if err := server.SetDeadline(stalled()); err != nil {
			b.t.Fatal(err)
		}
		if _, err := server.Write(make([]byte, 20_000)); err != nil {
			b.t.Fatal(err)
		}
		b.mustOwe(f.beside, 9_900)
		b.mustNotHaveStruck("data that nobody acknowledges")
		b.mute(f.server, false)
		testenv.WaitFor(b.t, downloadPatience, "a ban", func() bool { return len(b.bans()) > 0 })
	})
}

// forgeSYNs sends more SYNs than it takes SYN-ACKs to be over a limit of 10 kB.
func (b *bench) forgeSYNs(from netip.Addr, to netip.AddrPort) {
	b.t.Helper()
	index, err := b.ClientIndex()
	clientMAC, clientErr := b.Client.MAC(b.ClientIf)
	serverMAC, serverErr := b.Server.MAC(b.ServerIf)
	if err := errors.Join(err, clientErr, serverErr); err != nil {
		b.t.Fatal(err)
	}
	_, err = tg.Run(context.Background(), tg.Options{
		Namespace: b.Client, Ifindex: index, Packets: 1000, Mix: tg.Mix{{Prefix: netip.PrefixFrom(from, from.BitLen()), Count: 1}},
		Template: tg.SYN(netip.AddrPortFrom(from, 1), to).With(tg.MACs(clientMAC, serverMAC)),
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// eachFloodable is eachModeAndFamily where frames that are sent raw arrive.
func eachFloodable(t *testing.T, test func(b *bench, mode datapath.Mode, f family)) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range familiesIn(mode) {
			t.Run(name, func(t *testing.T) {
				test(newBench(t, testenv.PairOptions{GRO: mode != datapath.ModeNative, ClientAddrs: []netip.Addr{f.beside}}), mode, f)
			})
		}
	})
}

// answerLargely answers a datagram by one that fills a packet.
func (b *bench) answerLargely(addr netip.AddrPort) {
	b.t.Helper()
	var conn *net.UDPConn
	err := b.Server.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	go func() {
		var request [16]byte
		for {
			_, from, err := conn.ReadFromUDPAddrPort(request[:])
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.WriteToUDPAddrPort(make([]byte, 1400), from)
			}
		}
	}()
}

// mute keeps what the client would send to a server from leaving.
func (b *bench) mute(server netip.Addr, on bool) {
	b.t.Helper()
	what := map[bool]string{true: "add", false: "del"}[on]
	family := map[bool]string{true: "-4", false: "-6"}[server.Is4()]
	if out, err := b.Client.Command("ip", family, "rule", what, "pref", "1", "to", server.String(), "blackhole").CombinedOutput(); err != nil {
		b.t.Fatalf("%v: %s", err, out)
	}
}

// What this host uploads over connections that it made itself is sent to their address, and never makes it strike.
func TestOwnUploadsNeverStrike(t *testing.T) {
	const text = `
version: 1
services:
  - name: all
    listen: [any/tcp]
    limits: [{per: source, bytes_out: 1MB/d, ban: {after: 1, within: 1h, for: 1h}}]
`
	eachModeAndFamily(t, func(b *bench, mode datapath.Mode, f family) {
		b.attach(mode, nil)
		b.apply(text)
		store := b.listen(b.Client, netip.AddrPortFrom(f.beside, 9000))
		received := make(chan int64, 1)
		go func() {
			conn, err := store.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			n, _ := io.CopyN(io.Discard, conn, 5_000_000)
			received <- n
		}()
		upload, err := testenv.Dial(b.Server, f.server, netip.AddrPortFrom(f.beside, 9000), patience)
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { _ = testenv.Abort(upload) })
		if err := upload.SetDeadline(stalled()); err != nil {
			b.t.Fatal(err)
		}
		if _, err := io.CopyN(upload, zeros{}, 5_000_000); err != nil {
			b.t.Fatalf("%v, bans %+v", err, b.bans())
		}
		if n := <-received; n != 5_000_000 {
			b.t.Errorf("%d bytes came", n)
		}
		b.mustOwe(f.beside, 5_000_000)
		b.mustNotHaveStruck("what this host sent")

		b.forget(f.beside)
		to := netip.AddrPortFrom(f.server, 8080)
		b.fileServer(to)
		b.goOn(b.dial(f.beside, to))
	})
}
