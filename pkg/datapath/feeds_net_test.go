// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/feed"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// Sources that both states of a feed name: hosts, a prefix of the trie, and one that the other state names as two
// halves.
const (
	keptHosts, keptPrefix, keptHalves = "20.1.0.0/20", "20.2.0.0/20", "20.3.0.0/20"
	halfBits                          = 21
)

// feedState is one of two states of a feed: who is in both, and ten thousand hosts and five hundred prefixes that are
// in this one alone.
func feedState(odd bool) *feed.Set {
	host := func(p string, n uint32) netip.Addr {
		base := netip.MustParsePrefix(p).Addr().As4()
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(base[:])+n)))
	}
	all := []netip.Prefix{netip.MustParsePrefix(keptPrefix)}
	for n := range uint32(4096) {
		all = append(all, netip.PrefixFrom(host(keptHosts, n), 32))
	}
	seed := uint64(1)
	if odd {
		seed = 2
		all = append(all, netip.PrefixFrom(host(keptHalves, 0), halfBits), netip.PrefixFrom(host(keptHalves, 2048), halfBits))
	} else {
		all = append(all, netip.MustParsePrefix(keptHalves))
	}
	random := rand.New(rand.NewPCG(seed, seed))
	for n := range 10_500 {
		bits := 32
		if n%21 == 0 {
			bits = 24
		}
		all = append(all, netip.PrefixFrom(host("30.0.0.0/8", random.Uint32()>>8), bits).Masked())
	}
	set := feed.NewSet(all)
	set.Merge()
	return set
}

func loadState(i *datapath.Instance, odd bool) error {
	_, err := i.LoadFeed(datapath.FeedOptions{
		Feed: datapath.Feed{Name: "flood", List: datapath.Block, Scope: datapath.ScopeAll, Loaded: time.Now()}, Set: feedState(odd),
	})
	return err
}

// While another process loads a feed over and over, each time with ten thousand other entries, not one packet
// passes of those whom every state of it names.
func TestFloodWhileAFeedIsLoaded(t *testing.T) {
	needCPUs(t)
	const loads, patience = 12, 2 * time.Minute
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		b := newBench(t, testenv.PairOptions{GRO: true})
		b.attach(mode, nil)
		b.change(func(i *datapath.Instance) error { return loadState(i, false) })
		index, err := b.ClientIndex()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		failed := make(chan error, 1)
		before := b.tally()
		go func() {
			_, err := tg.Run(ctx, tg.Options{
				Namespace: b.Client, Ifindex: index, CPUs: []int{0}, Duration: patience, Rate: 100_000,
				Template: tg.SYN(netip.AddrPortFrom(netip.MustParseAddr("20.1.0.1"), 1), netip.AddrPortFrom(b.ServerIP4, 8080)),
				Mix: tg.Mix{
					{Prefix: netip.MustParsePrefix(keptHosts), Random: true, Weight: 1}, {Prefix: netip.MustParsePrefix(keptPrefix), Random: true, Weight: 1},
					{Prefix: netip.MustParsePrefix(keptHalves), Random: true, Weight: 1},
				},
			})
			failed <- err
		}()
		testenv.WaitFor(t, 10*time.Second, "the flood to be judged", func() bool { return b.tally()["blocked drop"] > before["blocked drop"] })
		for n := range loads {
			if err := b.start([]string{"feed-odd", "feed-even"}[n%2]).Wait(); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := <-failed; err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		after := b.tally()
		judged, others := after["blocked drop"]-before["blocked drop"], uint64(0)
		for end, n := range after {
			if end != "blocked drop" && end != "not_ip pass" && n > before[end] {
				others += n - before[end]
				t.Errorf("%d packets ended as %s", n-before[end], end)
			}
		}
		t.Logf("%d packets judged during %d loads", judged, loads)
		if judged < 10_000 {
			t.Errorf("only %d packets were judged: the test shows nothing", judged)
		}
	})
}
