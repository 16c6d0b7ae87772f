// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// bytesBan has the limit of the design, word for word.
const bytesBan = `
version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits:
      - {per: source, bytes_out: 20MB/60s, ban: {after: 1, within: 60s, for: 10m, growth: 2, max: 24h}}
`

// fileServer sends, over each connection, as many bytes as it is asked for, again and again.
func (b *bench) fileServer(addr netip.AddrPort) {
	b.t.Helper()
	listener := b.listen(b.Server, addr)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				var size [8]byte
				for {
					if _, err := io.ReadFull(conn, size[:]); err != nil {
						return
					}
					if _, err := io.CopyN(conn, zeros{}, int64(binary.BigEndian.Uint64(size[:]))); err != nil {
						return
					}
				}
			}()
		}
	}()
}

func (b *bench) listen(ns *testenv.Namespace, addr netip.AddrPort) (listener net.Listener) {
	b.t.Helper()
	err := ns.Do(func() (err error) {
		listener, err = net.Listen("tcp", addr.String())
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// dial connects to a fileServer.
func (b *bench) dial(from netip.Addr, to netip.AddrPort) net.Conn {
	b.t.Helper()
	conn, err := testenv.Dial(b.Client, from, to, patience)
	if err != nil {
		b.t.Fatalf("%v: %v", err, b.tally())
	}
	b.t.Cleanup(func() { _ = testenv.Abort(conn) })
	return conn
}

// stalled is when a transfer of some megabytes that has not ended never will: its client is banned.
func stalled() time.Time {
	return time.Now().Add(time.Duration(often(10, 120)) * time.Second)
}

func ask(conn net.Conn, size uint64) error {
	if err := conn.SetDeadline(stalled()); err != nil {
		return err
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, size)); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, conn, int64(size))
	return err
}

func (b *bench) mustFetch(conn net.Conn, size uint64) {
	b.t.Helper()
	if err := ask(conn, size); err != nil {
		b.t.Fatalf("download of %d: %v, %v", size, err, b.tally())
	}
}

// goOn downloads until it is banned, and is the ban.
func (b *bench) goOn(conn net.Conn) datapath.Entry {
	b.t.Helper()
	go func() {
		for ask(conn, 1<<20) == nil {
		}
	}()
	testenv.WaitFor(b.t, downloadPatience, "a ban", func() bool { return len(b.bans()) > 0 })
	bans := b.bans()
	if len(bans) != 1 {
		b.t.Fatalf("bans %+v", bans)
	}
	return bans[0]
}

func (b *bench) mustNotHaveStruck(what string) {
	b.t.Helper()
	if tally := b.banTally(); tally.Strikes != 0 || len(b.bans()) != 0 {
		b.t.Errorf("%s: %+v, %+v", what, tally, b.bans())
	}
}

// mustOwe waits until so much was sent to a source.
func (b *bench) mustOwe(source netip.Addr, bytes float64) {
	b.t.Helper()
	testenv.WaitFor(b.t, downloadPatience, "bytes to be sent", func() (enough bool) {
		b.read(func(i *datapath.Instance) error { enough = i.Owed(b.t, source) >= bytes; return nil })
		return enough
	})
}

func (b *bench) forget(source netip.Addr) {
	b.t.Helper()
	b.change(func(i *datapath.Instance) error { return i.Forget(source) })
}

// In IPv6 the client in a /64 with the server is protected, so it is the other one that offends.
//
// Whoever downloads less than his limit never strikes, over however many connections. Who goes on is banned for just so
// long, and his open connection ends with it; his neighbour is not.
func TestDownloaderIsBanned(t *testing.T) {
	eachModeAndFamily(t, func(b *bench, mode datapath.Mode, f family) {
		b.attach(mode, nil)
		b.apply(bytesBan)
		to := netip.AddrPortFrom(f.server, 8080)
		b.fileServer(to)
		for range 9 {
			conn := b.dial(f.beside, to)
			b.mustFetch(conn, 2_000_000)
			_ = conn.Close()
		}
		neighbour := b.dial(f.client, to)
		b.mustFetch(neighbour, 10_000_000)
		b.mustNotHaveStruck("below the limit")

		e := b.goOn(b.dial(f.beside, to))
		if got := e.Expires.Sub(e.Created).Round(time.Millisecond); got != 10*time.Minute || !e.Prefix.Contains(f.beside) || e.Reason != "1 strike at web" {
			b.t.Errorf("banned %s for %s (%s), want %s for 10m", e.Prefix, got, e.Reason, f.beside)
		}
		if tally := b.banTally(); tally.Strikes != 1 || tally.Bans != 1 {
			b.t.Errorf("counted %+v", tally)
		}
		if _, err := testenv.Dial(b.Client, f.beside, to, 300*time.Millisecond); err == nil {
			b.t.Error("connects while it is banned")
		}
		b.mustFetch(neighbour, 100_000)
	})
}

// Who is over strikes once in a period, however much he downloads in it, and each period in which he goes on.
func TestDownloaderStrikesOnceAPeriod(t *testing.T) {
	const often = `
version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits: [{per: source, bytes_out: 1MB/s, ban: {after: 3, within: 3h, for: 1h}}]
`
	const seldom = `
version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits: [{per: source, bytes_out: 1MB/h, ban: {after: 3, within: 3h, for: 1h}}]
`
	eachModeAndFamily(t, func(b *bench, mode datapath.Mode, f family) {
		b.attach(mode, nil)
		b.apply(seldom)
		to := netip.AddrPortFrom(f.server, 8080)
		b.fileServer(to)
		conn := b.dial(f.beside, to)
		for range 5 {
			b.mustFetch(conn, 2_000_000)
		}
		if tally := b.banTally(); tally.Strikes != 1 || tally.Bans != 0 {
			b.t.Errorf("in one period: %+v", tally)
		}
		b.apply(often)
		e := b.goOn(conn)
		if tally := b.banTally(); tally.Strikes != 3 || tally.Bans != 1 || e.Reason != "3 strikes at web" {
			b.t.Errorf("%s: %+v", e.Reason, tally)
		}
	})
}

// Where everything is only observed nobody strikes, and neither does a connection that was open before a policy that bans.
func TestDownloadsOfBeforeStrikeNobody(t *testing.T) {
	const text = `
version: 1
mode: observe
services:
  - name: web
    listen: [8080/tcp]
    limits: [{per: source, bytes_out: 1MB/d, ban: {after: 1, within: 1h, for: 1h}}]
`
	for name, f := range bothFamilies() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, testenv.PairOptions{ClientAddrs: []netip.Addr{f.beside}})
			b.attach(datapath.ModeTC, nil)
			b.apply(text)
			to := netip.AddrPortFrom(f.server, 8080)
			b.fileServer(to)
			conn := b.dial(f.beside, to)
			b.mustFetch(conn, 3_000_000)
			b.mustNotHaveStruck("observed")
			b.apply(strings.ReplaceAll(text, "observe", "enforce"))
			b.mustFetch(conn, 3_000_000)
			b.mustOwe(f.beside, 3_000_000)
			b.mustNotHaveStruck("a connection of before")
			b.forget(f.beside)
			b.goOn(b.dial(f.beside, to))
		})
	}
}

// A limit of a whole network bans whoever downloads that much himself, and not the last one of many. One socket listens
// for both families.
func TestNobodyIsBannedForHisNeighbours(t *testing.T) {
	const text = `
version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits: [{per: source, prefix: {ipv4: 24, ipv6: 48}, bytes_out: 1MB/d, ban: {after: 1, within: 1h, for: 1h}}]
`
	for name, f := range bothFamilies() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, testenv.PairOptions{ClientAddrs: []netip.Addr{f.beside}})
			b.attach(datapath.ModeTC, nil)
			b.apply(text)
			to := netip.AddrPortFrom(f.server, 8080)
			b.fileServer(netip.AddrPortFrom(netip.IPv6Unspecified(), 8080))
			one, other := b.dial(f.client, to), b.dial(f.beside, to)
			b.mustFetch(one, 900_000)
			b.mustFetch(other, 900_000)
			b.mustOwe(f.beside, 1_500_000)
			b.mustNotHaveStruck("their network is over")
			if e := b.goOn(other); !e.Prefix.Contains(f.beside) {
				t.Errorf("banned %s, want %s", e.Prefix, f.beside)
			}
		})
	}
}
