// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// reusedPolicy has a limit that is judged at once and, on another port, one that is looked at with others.
const reusedPolicy = `
version: 1
services:
  - {name: plain, listen: [8080/tcp], limits: [{per: source, new: 1/d, burst: 5}]}
  - name: many
    listen: [8081/tcp]
    limits: [{per: source+destination, new: 1/d, burst: 5}, {per: source, new: 2/d, burst: 50}]
`

// oneSYN is how long an answer may take that is then counted as none: less than until a SYN is sent again.
const oneSYN = 900 * time.Millisecond

// reusedPort is the source port of every connection.
const reusedPort = 41000

// A table that knows connections by address and port takes a client that reuses one source port for one that
// retransmits. Here it is counted like any other: the same of it is admitted as of one with a fresh port each time.
func TestReusedSourcePort(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range bothFamilies() {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // it mostly waits for answers that do not come
				b := newBench(t, testenv.PairOptions{GRO: true, ClientAddrs: []netip.Addr{f.beside}})
				b.attach(mode, nil)
				b.apply(reusedPolicy)
				for _, port := range []uint16{8080, 8081} {
					to := netip.AddrPortFrom(f.server, port)
					server := testenv.NewServer(t, b.Server, to, testenv.ServerOptions{Hold: true})
					b.connectFromOnePort(server, f.client, reusedPort)
					b.connectFromOnePort(server, f.beside, 0)
					if reused, fresh := server.Count(f.client), server.Count(f.beside); reused != 5 || fresh != 5 {
						t.Errorf("port %d: accepted %d from one source port and %d from fresh ones, want 5 each", port, reused, fresh)
					}
					server.Close()
				}
				b.mustCountAFlood(f.server)
			})
		}
	})
}

// connectFromOnePort makes six connections one after the other: port 0 is any. Each is gone at the server, too,
// before the next: RST and SYN are packets of two sockets, take two queues, and may overtake each other.
func (b *bench) connectFromOnePort(server *testenv.Server, from netip.Addr, port uint16) {
	b.t.Helper()
	for n := range 6 {
		conn, err := testenv.DialFrom(b.Client, netip.AddrPortFrom(from, port), server.Addr(), oneSYN)
		if err == nil {
			err = errors.Join(awaitByte(conn), testenv.Abort(conn))
			testenv.WaitFor(b.t, streamPatience, "the server to see the RST", func() bool { return server.Open() == 0 })
		}
		if n < 5 && err != nil || n == 5 && !errors.Is(err, testenv.ErrNoAnswer) {
			b.t.Errorf("connection %d from %s, port %d: %v", n+1, from, port, err)
		}
	}
}

// awaitByte waits for the server's greeting: by then it has counted the connection.
func awaitByte(conn net.Conn) error {
	err := conn.SetReadDeadline(time.Now().Add(streamPatience))
	_, readErr := io.ReadFull(conn, make([]byte, 1))
	return errors.Join(err, readErr)
}

// mustCountAFlood sends SYNs of one source port, sequence number and all, from two CPUs: a burst is admitted.
func (b *bench) mustCountAFlood(to netip.Addr) {
	b.t.Helper()
	needCPUs(b.t)
	index, err := b.ClientIndex()
	if err != nil {
		b.t.Fatal(err)
	}
	from := netip.MustParseAddr("198.18.9.9")
	if to.Is6() {
		from = netip.MustParseAddr("fd78::9")
	}
	const count = 200
	for _, port := range []uint16{8080, 8081} {
		before := b.tally()
		sent, err := tg.Run(context.Background(), tg.Options{
			Namespace: b.Client, Ifindex: index, CPUs: []int{0, 1}, KeepPort: true, KeepSeq: true, Packets: count,
			Template: tg.SYN(netip.AddrPortFrom(from, reusedPort), netip.AddrPortFrom(to, port)), Mix: tg.Sources(from, 1),
		})
		if err != nil || sent != count {
			b.t.Fatalf("sent %d of %d: %v", sent, count, err)
		}
		want := tally{isUnder: 5, isOverNew: count - 5}
		if got := b.since(before, count); !maps.Equal(got, want) {
			b.t.Errorf("port %d: a flood from one source port was counted as %v, want %v", port, got, want)
		}
	}
}
