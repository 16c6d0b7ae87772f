// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// flood is SYNs on their way from the client's namespace to the server, as fast as one CPU makes them, until stop. On an
// emulated CPU nothing else would run beside them.
type flood struct {
	b      *bench
	sent   uint64
	err    error
	begin  time.Time
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

// startFlood returns when the first of it was challenged.
func (b *bench) startFlood(to netip.AddrPort, sources tg.Mix) *flood {
	b.t.Helper()
	return b.startFloodThat("over_new challenge", to, sources)
}

// startFloodThat has begun when a thousand of it have ended so.
func (b *bench) startFloodThat(ends string, to netip.AddrPort, sources tg.Mix) *flood {
	b.t.Helper()
	f := b.sendFlood(to, sources)
	testenv.WaitFor(b.t, patience, "the flood to end as "+ends, func() bool { return b.tally()[ends] > 1000 })
	return f
}

// sendFlood changes the SYNs as options say.
func (b *bench) sendFlood(to netip.AddrPort, sources tg.Mix, options ...tg.Mutation) *flood {
	b.t.Helper()
	index, err := b.ClientIndex()
	if err != nil {
		b.t.Fatal(err)
	}
	serverMAC, err := b.Server.MAC(b.ServerIf)
	if err != nil {
		b.t.Fatal(err)
	}
	clientMAC, err := b.Client.MAC(b.ClientIf)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &flood{b: b, begin: time.Now(), cancel: cancel}
	f.ended.Go(func() {
		f.sent, f.err = tg.Run(ctx, tg.Options{
			Namespace: b.Client, Ifindex: index, Duration: 2 * time.Minute, Mix: sources, Rate: float64(often(0, 20_000)),
			Template: tg.SYN(netip.AddrPortFrom(sources[0].Prefix.Addr(), 1), to).With(append(options, tg.MACs(clientMAC, serverMAC))...),
		})
	})
	b.t.Cleanup(f.stop)
	return f
}

func (f *flood) stop() {
	f.cancel()
	f.ended.Wait()
}

// rate is SYNs a second until stop.
func (f *flood) rate() float64 {
	f.stop()
	return float64(f.sent) / time.Since(f.begin).Seconds()
}

// sourceChallenge counts by source.
const sourceChallenge = `
version: 1
services:
  - {name: web, listen: [8080/tcp], limits: [{per: source, new: 1/d, burst: 20, over: challenge}]}
`

// The address of a client is forged by a flood at full rate. It connects all the same, 10 of 10 times, and transfers;
// somebody who is over the limit himself gets it, and one burst more.
func TestForgedClientConnectsDuringTheFlood(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range familiesIn(mode) {
			t.Run(name, func(t *testing.T) {
				b := challengeBench(t, mode, "2", sourceChallenge, testenv.PairOptions{GRO: mode != datapath.ModeNative, ClientAddrs: []netip.Addr{f.beside}})
				to := netip.AddrPortFrom(f.server, 8080)
				server := testenv.NewServer(t, b.Server, to, testenv.ServerOptions{})
				flood := b.startFlood(to, tg.Mix{{Prefix: netip.PrefixFrom(f.client, f.client.BitLen()), Count: 1}})
				for n := range 10 {
					if err := testenv.Connect(b.Client, f.client, to, streamPatience); err != nil {
						t.Fatalf("connection %d of the forged client: %v; %v", n, err, b.tally())
					}
				}
				got := 0
				for range 60 {
					if testenv.Connect(b.Client, f.beside, to, 200*time.Millisecond) == nil {
						got++
					}
				}
				if got < 20 || got > 40 || server.Count(f.beside) > 40 {
					t.Errorf("the offender got %d connections (%d at the server), want 20 to 40; %v", got, server.Count(f.beside), b.tally())
				}
				t.Logf("%.0f SYNs a second, offender %d, %v", flood.rate(), got, b.tally())
			})
		}
	})
}
