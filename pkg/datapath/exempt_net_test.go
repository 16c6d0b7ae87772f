// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// Those who had connected before a flood of forged SYNs connect during it, all of them; strangers do not, and nobody
// past his own limit.
func TestExemptConnectDuringAFlood(t *testing.T) {
	const clients, own = 50, 3
	for name, side := range exampleSides() {
		for _, mode := range []datapath.Mode{datapath.ModeNative, datapath.ModeTC} {
			t.Run(name+"/"+string(mode), func(t *testing.T) {
				b := newBench(t, testenv.PairOptions{GRO: true, ClientPrefixes: exampleClients()})
				b.attach(mode, nil)
				b.apply(`
version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits: [{per: service, new: 60/d, exempt: verified}, {per: source, new: 3/d}]
`)
				server := b.server(side.other, testenv.ServerOptions{})
				connect := func(first int) (made int) {
					for n := range clients {
						if testenv.Connect(b.Client, side.customer(first+n), server.Addr(), exampleTimeout) == nil {
							made++
						}
					}
					return made
				}
				if got := connect(0); got != clients {
					t.Fatalf("before the flood %d of %d clients connected", got, clients)
				}
				stop := b.floodOf(side, server.Addr())
				if got := connect(0); got != clients {
					t.Errorf("during the flood %d of %d clients connected that were here before", got, clients)
				}
				if got := testenv.Connect(b.Client, side.stranger, server.Addr(), exampleTimeout); got == nil {
					t.Error("a stranger connected: the flood shows nothing")
				}
				stop()
				for n := range own {
					if err := testenv.Connect(b.Client, side.customer(0), server.Addr(), exampleTimeout); (err == nil) != (n == 0) {
						t.Errorf("connection %d of a client that may have %d: %v", n+own, own, err)
					}
				}
			})
		}
	}
}

// floodOf sends SYNs of forged sources until it is stopped, and returns when the first have been refused.
func (b *bench) floodOf(side exampleSide, to netip.AddrPort) (stop func()) {
	b.t.Helper()
	index, err := b.ClientIndex()
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	done := make(chan error, 1)
	first := netip.MustParseAddr("198.19.0.0")
	if to.Addr().Is6() {
		first = netip.MustParseAddr("2001:db9:ff::")
	}
	go func() {
		_, err := tg.Run(ctx, tg.Options{
			Namespace: b.Client, Ifindex: index, CPUs: []int{0}, Rate: 5000, Packets: 1_000_000,
			Template: tg.SYN(netip.AddrPortFrom(side.stranger, 40000), to), Mix: tg.Sources(first, 4000),
		})
		done <- err
	}()
	testenv.WaitFor(b.t, streamPatience, "the flood to be refused", func() bool { return b.packets("over_new") > 100 })
	return func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			b.t.Error(err)
		}
	}
}
