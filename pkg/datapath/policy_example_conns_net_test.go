// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"testing"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// The limits of open connections in the policy that the design gives as an example, with real clients that hold all
// that they get.
func TestExamplePolicyLimitsOpenConnections(t *testing.T) {
	for name, side := range exampleSides() {
		t.Run(name, func(t *testing.T) {
			b := connBench{newBench(t, testenv.PairOptions{ClientPrefixes: exampleClients()})}
			b.attach(datapath.ModeNative, nil)
			p := parseExample(t, examplePolicy)
			b.change(func(i *datapath.Instance) error { return i.Apply(datapath.ApplyOptions{Policy: p, By: "test"}) })
			for _, c := range []struct {
				what        string
				from        netip.Addr
				port        uint16
				tries, want int
			}{
				{"mail", side.stranger, 25, 12, 10},
				{"mail from a relay", side.relay, 25, 12, 12},
				{"web", side.customer(0), 80, 60, 60},
				{"web from the office", side.office, 80, 60, 60},
				{"ssh", side.customer(1), 22, 1, 1},
			} {
				server := testenv.NewServer(t, b.Server, netip.AddrPortFrom(netip.IPv6Unspecified(), c.port), testenv.ServerOptions{Hold: true, Silent: true})
				if got := b.holdFrom(c.from, netip.AddrPortFrom(side.other, c.port), c.tries); got != c.want {
					t.Errorf("%s: %d of %d connections were made, want %d", c.what, got, c.tries, c.want)
				}
				server.Close()
			}
		})
	}
}

// holdFrom opens connections one after the other and holds them to the end of the test.
func (b connBench) holdFrom(from netip.Addr, to netip.AddrPort, tries int) (made int) {
	b.t.Helper()
	for range tries {
		conn, err := testenv.DialFrom(b.Client, netip.AddrPortFrom(from, 0), to, exampleTimeout)
		if err != nil {
			continue
		}
		made++
		b.t.Cleanup(func() { _ = conn.Close() })
	}
	return made
}
