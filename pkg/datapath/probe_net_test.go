// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// dropBan bans as sourceBan does, over a limit that challenges nobody.
const dropBan = `
version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits:
      - {per: source, new: 1/d, burst: 2, over: %s, ban: {after: 3, within: 1h, for: 5s, growth: 2, max: 1h}}
`

// probeBench is a server as it is installed: no setting of it is changed.
func probeBench(t *testing.T, mode datapath.Mode, text string, opts testenv.PairOptions) *bench {
	t.Helper()
	b := newBench(t, opts)
	b.attach(mode, nil)
	b.apply(text)
	if mode == datapath.ModeNative {
		b.watchClient()
	}
	return b
}

// A real client that goes on over a limit that drops or resets, and sends as soon as it thinks that it may, is banned by
// his third attempt past as many as it allows; a neighbour of it is not. The ban ends by itself, and the next one is twice as long.
func TestInsistentClientIsProbedAndBanned(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range familiesIn(mode) {
			for _, over := range []string{"drop", "reset"} {
				t.Run(name+" "+over, func(t *testing.T) {
					b := probeBench(t, mode, fmt.Sprintf(dropBan, over),
						testenv.PairOptions{GRO: mode != datapath.ModeNative, ClientAddrs: []netip.Addr{f.beside}})
					to := netip.AddrPortFrom(f.server, 8080)
					b.helloServer(to)
					b.mustReach(f.beside, to, 2)
					b.mustTryInVain(f.beside, to, 2)
					b.mustStrikeOut(f.beside, to, 5*time.Second)
					if _, err := testenv.Dial(b.Client, f.beside, to, 300*time.Millisecond); err == nil || b.packets("blocked") == 0 {
						t.Errorf("while it is banned: %v, %v", err, b.tally())
					}
					if !b.insist(f.client, to) {
						t.Errorf("its neighbour is refused: %v", b.tally())
					}
					testenv.WaitFor(t, time.Minute, "the ban to end", func() bool { return len(b.bans()) == 0 })
					b.mustStrikeOut(f.beside, to, 10*time.Second)
					if got := b.tally(); got["over_new probe"] != 8 || got["over_new reset"] != 8 {
						t.Errorf("not eight probes and eight RSTs: %v", got)
					}
				})
			}
		}
	})
}

// A flood in the name of somebody strikes him not once, though his own system is asked and answers. Once his limit has
// room again he connects.
func TestForgedClientIsNeverStruck(t *testing.T) {
	const text = `
version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits:
      - {per: source, new: 10/s, burst: 4, over: drop, ban: {after: 1, within: 1h, for: 1h}}
`
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range familiesIn(mode) {
			t.Run(name, func(t *testing.T) {
				b := probeBench(t, mode, text, testenv.PairOptions{GRO: mode != datapath.ModeNative, ClientAddrs: []netip.Addr{f.beside}})
				to := netip.AddrPortFrom(f.server, 8080)
				b.helloServer(to)
				flood := b.startFloodThat("over_new drop", to, tg.Mix{{Prefix: netip.PrefixFrom(f.beside, f.beside.BitLen()), Count: 1}})
				testenv.WaitFor(t, time.Minute, "much of the flood", func() bool { return b.tally()["over_new drop"] > uint64(often(100_000, 10_000)) })
				rate := flood.rate()
				begin := time.Now()
				testenv.WaitFor(t, patience, "room in its limit", func() bool { return b.roomFor(f.beside, to) >= 2 })
				if !b.insist(f.beside, to) {
					t.Errorf("refused after the flood: %v", b.tally())
				}
				t.Logf("%.0f SYNs a second, %v, connected %s after them", rate, b.tally(), time.Since(begin).Round(time.Millisecond))
				if got := b.banTally(); got != (datapath.BanTally{}) || len(b.bans()) != 0 {
					t.Errorf("framed: %+v, %+v", got, b.bans())
				}
				if b.tally()["over_new probe"] < 20 {
					t.Errorf("hardly anything was probed: %v", b.tally())
				}
			})
		}
	})
}

// roomFor is how many connections a source may make now, by a clock that may be a tick ahead of the programs'.
func (b *bench) roomFor(source netip.Addr, to netip.AddrPort) (left uint64) {
	b.t.Helper()
	b.read(func(i *datapath.Instance) error {
		v, err := i.CheckAt(source, to)
		left = v.Left
		return err
	})
	return left
}

// The SYN of a connection that is there, or half there, sent again while its source is over the limit: it is neither
// probed nor reset, and the connection goes on.
func TestRetransmittedSYNIsNeverProbed(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range familiesIn(mode) {
			for _, over := range []string{"drop", "reset"} {
				for _, half := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s %s half open %v", name, over, half), func(t *testing.T) {
						b := probeBench(t, mode, fmt.Sprintf(dropBan, over), testenv.PairOptions{ClientAddrs: []netip.Addr{f.beside}})
						b.mustNotProbeAgain(f, half)
					})
				}
			}
		}
	})
}

func (b *bench) mustNotProbeAgain(f family, half bool) {
	b.t.Helper()
	to := netip.AddrPortFrom(f.server, 8080)
	b.newExchange(to, 1000, func(fd int) error {
		if !half {
			return nil
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30) // a request until data comes
	})
	from := netip.AddrPortFrom(f.beside, 41000)
	conn, err := testenv.DialFrom(b.Client, from, to, patience)
	if err != nil {
		b.t.Fatal(err)
	}
	defer testenv.Abort(conn)
	before := b.tally()
	client, err := b.Client.MAC(b.ClientIf)
	server, serverErr := b.Server.MAC(b.ServerIf)
	if err := errors.Join(err, serverErr); err != nil {
		b.t.Fatal(err)
	}
	again := tg.SYN(from, to).With(tg.MACs(client, server))
	beside := again.With(tg.From(41001)) // uses up the limit
	b.send([][]byte{beside.Bytes(), again.Bytes(), again.Bytes(), again.Bytes()})
	testenv.WaitFor(b.t, patience, "the SYNs", func() bool { return b.tally()["over_new drop"] >= before["over_new drop"]+3 })
	moved := b.tally().minus(before)
	if moved["over_new probe"] != 0 || moved["over_new reset"] != 0 || moved["over_new drop"] != 3 {
		b.t.Errorf("SYNs of a connection that is there: %v", moved)
	}
	if err := swap(conn, 1000); err != nil {
		b.t.Errorf("the connection did not go on: %v", err)
	}
}

// Who is challenged for the whole service, and has a limit of his own that bans, connects and is not struck.
func TestChallengedClientIsNotStruck(t *testing.T) {
	const text = `
version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits:
      - {per: source, new: 100/d, over: drop, ban: {after: 1, within: 1h, for: 1h}}
      - {per: service, new: 1/d, burst: 1, over: challenge}
`
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range familiesIn(mode) {
			t.Run(name, func(t *testing.T) {
				b := challengeBench(t, mode, "1", text, testenv.PairOptions{GRO: mode != datapath.ModeNative})
				to := netip.AddrPortFrom(f.server, 8080)
				b.helloServer(to)
				for n := range 10 {
					if !b.insist(f.client, to) {
						t.Errorf("connection %d was refused: %v", n, b.tally())
					}
				}
				if got := b.tally(); got["over_new challenge"] != 9 || got["over_new probe"] != 0 {
					t.Errorf("not challenged nine times: %v", got)
				}
				if got := b.banTally(); got != (datapath.BanTally{}) {
					t.Errorf("struck: %+v", got)
				}
			})
		}
	})
}
