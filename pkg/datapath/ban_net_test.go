// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// sourceBan bans the third time for five seconds, and then for ten.
const sourceBan = `
version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits:
      - {per: source, new: 1/d, burst: 2, over: challenge, ban: {after: 3, within: 1h, for: 5s, growth: 2, max: 1h}}
`

// shortBan is how long the first lasts there: on an emulated CPU a command takes seconds, and some come before it ends.
func shortBan() time.Duration { return time.Duration(often(5, 8)) * time.Second }

// bans are the entries of the block list that the data path made.
func (b *bench) bans() (out []datapath.Entry) {
	b.t.Helper()
	b.read(func(i *datapath.Instance) error {
		all, err := i.Entries(datapath.Block)
		for _, e := range all {
			if e.Origin == datapath.OriginAuto {
				out = append(out, e)
			}
		}
		return err
	})
	return out
}

func (b *bench) banTally() (tally datapath.BanTally) {
	b.t.Helper()
	b.read(func(i *datapath.Instance) (err error) {
		tally, err = i.BanTally()
		return err
	})
	return tally
}

// insist connects once, sends at once, and waits for what comes of it: true where the server answers.
func (b *bench) insist(from netip.Addr, to netip.AddrPort) bool {
	b.t.Helper()
	conn, err := testenv.Dial(b.Client, from, to, patience)
	if err != nil {
		return false
	}
	defer testenv.Abort(conn)
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("hello")); err != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 1))
	return err == nil
}

// helloServer answers a byte to whoever sends some.
func (b *bench) helloServer(addr netip.AddrPort) {
	b.t.Helper()
	var listener net.Listener
	var config net.ListenConfig
	config.SetMultipathTCP(false) // whose requests no program can read
	err := b.Server.Do(func() (err error) {
		listener, err = config.Listen(context.Background(), "tcp", addr.String())
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := conn.Read(make([]byte, 16)); err == nil {
					_, _ = conn.Write([]byte{1})
					_, _ = conn.Read(make([]byte, 1))
				}
			}()
		}
	}()
}

// In IPv6 the client in a /64 with the server is protected, so it is the other one that offends.
//
// A real client that goes on over its limit is banned by its third strike, whatever of its data is under way; a
// neighbour of it is not. The ban ends by itself, and the next one is twice as long.
func TestInsistentClientIsBanned(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range familiesIn(mode) {
			t.Run(name, func(t *testing.T) {
				text := strings.ReplaceAll(sourceBan, "for: 5s", "for: "+shortBan().String())
				b := challengeBench(t, mode, "1", text, testenv.PairOptions{GRO: mode != datapath.ModeNative, ClientAddrs: []netip.Addr{f.beside}})
				to := netip.AddrPortFrom(f.server, 8080)
				b.helloServer(to)
				for n := range 4 { // two without proof, and two with
					if !b.insist(f.beside, to) {
						t.Fatalf("connection %d was refused: %v", n, b.tally())
					}
				}
				b.mustStrikeOut(f.beside, to, shortBan())
				if _, err := testenv.Dial(b.Client, f.beside, to, 300*time.Millisecond); err == nil || b.packets("blocked") == 0 {
					t.Errorf("while it is banned: %v, %v", err, b.tally())
				}
				if !b.insist(f.client, to) {
					t.Errorf("its neighbour is refused: %v", b.tally())
				}
				testenv.WaitFor(t, time.Minute, "the ban to end", func() bool { return len(b.bans()) == 0 })
				b.mustStrikeOut(f.beside, to, 2*shortBan())
			})
		}
	})
}

// mustStrikeOut strikes three times, and wants a ban of this length by the last.
func (b *bench) mustStrikeOut(client netip.Addr, to netip.AddrPort, length time.Duration) {
	b.t.Helper()
	for n := range 3 {
		if bans := b.bans(); len(bans) != 0 {
			b.t.Fatalf("banned by %d strikes: %+v", n, bans)
		}
		if b.insist(client, to) {
			b.t.Fatalf("connection %d over the limit was let through: %v", n, b.tally())
		}
	}
	bans := b.bans()
	if len(bans) != 1 {
		b.t.Fatalf("bans %+v; %v", bans, b.tally())
	}
	e := bans[0]
	if got := e.Expires.Sub(e.Created).Round(time.Millisecond); got != length || !e.Prefix.Contains(client) || e.Reason != "3 strikes at web" {
		b.t.Errorf("banned %s for %s (%s), want %s for %s", e.Prefix, got, e.Reason, client, length)
	}
}

// A flood in the name of somebody bans nobody, and he connects during it and once it is over.
func TestForgedClientIsNeverBanned(t *testing.T) {
	const text = `
version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits:
      - {per: source, new: 2/s, burst: 4, over: challenge, ban: {after: 1, within: 1h, for: 1h}}
`
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range familiesIn(mode) {
			t.Run(name, func(t *testing.T) {
				b := challengeBench(t, mode, "2", text, testenv.PairOptions{GRO: mode != datapath.ModeNative, ClientAddrs: []netip.Addr{f.beside}})
				to := netip.AddrPortFrom(f.server, 8080)
				b.helloServer(to)
				flood := b.startFlood(to, tg.Mix{{Prefix: netip.PrefixFrom(f.beside, f.beside.BitLen()), Count: 1}})
				testenv.WaitFor(t, time.Minute, "much of the flood", func() bool { return b.tally()["over_new challenge"] > uint64(often(100_000, 10_000)) })
				if !b.insist(f.beside, to) {
					t.Errorf("refused during the flood: %v", b.tally())
				}
				rate := flood.rate()
				if !b.insist(f.beside, to) {
					t.Errorf("refused after the flood: %v", b.tally())
				}
				if bans := b.bans(); len(bans) != 0 {
					t.Errorf("framed: %+v", bans)
				}
				t.Logf("%.0f SYNs a second, %v", rate, b.tally())
			})
		}
	})
}

// Nor does one in the name of somebody who has used up his limit, with ACKs that guess the cookie: only he himself does.
func TestForgedClientAtHisLimitIsNeverBanned(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range familiesIn(mode) {
			t.Run(name, func(t *testing.T) {
				b := challengeBench(t, mode, "2", strings.ReplaceAll(sourceBan, "after: 3", "after: 1"), testenv.PairOptions{GRO: mode != datapath.ModeNative, ClientAddrs: []netip.Addr{f.beside}})
				to := netip.AddrPortFrom(f.server, 8080)
				b.helloServer(to)
				for n := range 4 {
					if !b.insist(f.beside, to) {
						t.Fatalf("connection %d was refused: %v", n, b.tally())
					}
				}
				forged := tg.Mix{{Prefix: netip.PrefixFrom(f.beside, f.beside.BitLen()), Count: 1}}
				floods := []*flood{b.startFlood(to, forged), b.sendFlood(to, forged, tg.Flags(tg.ACK), func(p *tg.Packet) { p.Ack = 0x12345678 })}
				testenv.WaitFor(t, time.Minute, "much of both floods", func() bool {
					much := uint64(often(100_000, 10_000))
					return b.tally()["over_new challenge"] > much && b.tally()["established pass"] > much
				})
				for _, one := range floods {
					one.stop()
				}
				if bans := b.bans(); len(bans) != 0 {
					t.Errorf("framed: %+v", bans)
				}
				testenv.WaitFor(t, time.Minute, "guesses to be few enough, and then his own strike to ban him", func() bool {
					b.insist(f.beside, to)
					return len(b.bans()) == 1
				})
			})
		}
	})
}

// The addresses without which the host is cut off are spared: here the gateway of its default route, which may be there
// when the policy is applied, or come later and be seen by the next command that changes anything. Its ban is lifted
// then.
func TestGatewayIsNeverBanned(t *testing.T) {
	f := bothFamilies()["IPv4"]
	for _, comes := range []string{"before the policy", "behind the policy", "behind a ban"} {
		t.Run(comes, func(t *testing.T) {
			b := newBench(t, testenv.PairOptions{})
			if err := b.Server.SetSysctl("net.ipv4.tcp_syncookies", "2"); err != nil {
				t.Fatal(err)
			}
			to := netip.AddrPortFrom(f.server, 8080)
			insist := func(n int) {
				for range n {
					b.insist(f.client, to)
				}
			}
			route := func() {
				t.Helper()
				if err := b.Server.Command("ip", "route", "add", "default", "via", f.client.String()).Run(); err != nil {
					t.Fatal(err)
				}
			}
			if comes == "before the policy" {
				route()
			}
			b.attach(datapath.ModeTC, nil)
			b.apply(strings.ReplaceAll(sourceBan, "for: 5s", "for: 1h"))
			b.helloServer(to)
			want := datapath.BanTally{Strikes: 6, Spared: 2}
			if comes == "behind a ban" {
				if insist(7); len(b.bans()) != 1 {
					t.Fatalf("bans %+v; %v", b.bans(), b.tally())
				}
				want = datapath.BanTally{Strikes: 6, Spared: 1, Bans: 1}
			}
			if comes != "before the policy" {
				route()
				b.block(datapath.Entry{Prefix: netip.MustParsePrefix("198.51.100.1/32")})
			}
			if comes == "behind a ban" {
				insist(3)
			} else {
				insist(10)
			}
			if tally := b.banTally(); tally != want || len(b.bans()) != 0 {
				t.Errorf("counted %+v, %v, want %+v", tally, b.tally(), want)
			}
		})
	}
}

// An instance may have interfaces in several network namespaces. The addresses of all of them are spared, whichever a
// command runs in.
func TestAddressesOfEveryNamespaceAreSpared(t *testing.T) {
	f := bothFamilies()["IPv4"]
	b := newBench(t, testenv.PairOptions{})
	if err := b.Server.SetSysctl("net.ipv4.tcp_syncookies", "2"); err != nil {
		t.Fatal(err)
	}
	b.attach(datapath.ModeTC, nil)
	err := b.Client.Do(func() error {
		_, err := datapath.Attach(datapath.AttachOptions{PinDir: b.pinDir, Interface: b.ClientIf, Mode: datapath.ModeTC})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b.apply(strings.ReplaceAll(sourceBan, "for: 5s", "for: 1h"))
	to := netip.AddrPortFrom(f.server, 8080)
	b.helloServer(to)
	for range 7 { // four that there is room for, and three strikes
		b.insist(f.client, to)
	}
	if tally, want := b.banTally(), (datapath.BanTally{Strikes: 3, Spared: 1}); tally != want || len(b.bans()) != 0 {
		t.Errorf("counted %+v, %v, want %+v", tally, b.tally(), want)
	}
}
