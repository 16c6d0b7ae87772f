// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// attemptsBan bans at the first strike.
const attemptsBan = `
version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits:
      - {per: source, new: 1/d, burst: %d, over: %s, ban: {after: 1, within: 1h, for: 1h}}
`

// Somebody uses up a client's limit by a few SYNs in his name: all that the client tries is refused, and he is not banned
// before he has himself tried more than the limit allows.
func TestForgedClientMayTryAsOftenAsHisLimitSays(t *testing.T) {
	eachProbed(t, func(b *bench, over string, f family) {
		b.apply(fmt.Sprintf(attemptsBan, 3, over))
		to := netip.AddrPortFrom(f.server, 8080)
		b.helloServer(to)
		b.forgeFew(f.beside, to, 3)
		b.mustTryInVain(f.beside, to, 3)
		b.mustBanAtNext(f.beside, to)
	})
}

// Connections that are made count beside probes that are answered: else a limit that allows more than anybody is
// probed would never ban.
func TestConnectionsCountBesideProbes(t *testing.T) {
	eachProbed(t, func(b *bench, over string, f family) {
		b.apply(fmt.Sprintf(attemptsBan, 2, over))
		to := netip.AddrPortFrom(f.server, 8080)
		b.helloServer(to)
		b.mustReach(f.beside, to, 2)
		b.mustTryInVain(f.beside, to, 1) // from here on his ACKs are looked at
		b.apply(fmt.Sprintf(attemptsBan, 6, over))
		b.mustReach(f.beside, to, 4)
		b.mustTryInVain(f.beside, to, 1)
		b.mustBanAtNext(f.beside, to)
	})
}

func eachProbed(t *testing.T, test func(b *bench, over string, f family)) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range familiesIn(mode) {
			for _, over := range []string{"drop", "reset"} {
				t.Run(name+" "+over, func(t *testing.T) {
					test(probeBench(t, mode, fmt.Sprintf(attemptsBan, 1, over),
						testenv.PairOptions{GRO: mode != datapath.ModeNative, ClientAddrs: []netip.Addr{f.beside}}), over, f)
				})
			}
		}
	})
}

// forgeFew sends so many SYNs that a third party might send as well, and waits until they were admitted.
func (b *bench) forgeFew(from netip.Addr, to netip.AddrPort, n int) {
	b.t.Helper()
	client, err := b.Client.MAC(b.ClientIf)
	server, serverErr := b.Server.MAC(b.ServerIf)
	if err := errors.Join(err, serverErr); err != nil {
		b.t.Fatal(err)
	}
	before := b.packets(isUnderLimit)
	var frames [][]byte
	for port := range n {
		frames = append(frames, tg.SYN(netip.AddrPortFrom(from, 41000+uint16(port)), to).With(tg.MACs(client, server)).Bytes())
	}
	b.send(frames)
	testenv.WaitFor(b.t, patience, "the SYNs", func() bool { return b.packets(isUnderLimit) == before+uint64(n) })
}

const isUnderLimit = "under_limit"

func (b *bench) mustReach(from netip.Addr, to netip.AddrPort, times int) {
	b.t.Helper()
	for n := range times {
		if !b.insist(from, to) {
			b.t.Fatalf("connection %d was refused: %v", n, b.tally())
		}
	}
}

func (b *bench) mustTryInVain(from netip.Addr, to netip.AddrPort, times int) {
	b.t.Helper()
	for n := range times {
		if b.insist(from, to) {
			b.t.Fatalf("attempt %d over the limit was let through: %v", n, b.tally())
		}
		b.mustNotHaveStruck(fmt.Sprintf("attempt %d", n))
	}
}

func (b *bench) mustBanAtNext(from netip.Addr, to netip.AddrPort) {
	b.t.Helper()
	if b.insist(from, to) {
		b.t.Fatalf("the last attempt was let through: %v", b.tally())
	}
	if bans := b.bans(); len(bans) != 1 || !bans[0].Prefix.Contains(from) {
		b.t.Errorf("bans %+v, want %s; %v", bans, from, b.tally())
	}
}
