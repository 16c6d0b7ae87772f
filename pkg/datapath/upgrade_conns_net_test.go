// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"sync"
	"testing"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// A limit of concurrent connections holds across upgrades, there and back and to other code on the same maps: what is
// open is counted once, no place is free meanwhile, and each connection that ends gives its place back.
func TestUpgradeCountsConnectionsOnce(t *testing.T) {
	const most = 40
	for name, upgrade := range map[string]func(l *upgradeLab){
		"other maps": (*upgradeLab).thereAndBack,
		"same maps": func(l *upgradeLab) {
			l.change(func(i *datapath.Instance) error { i.AgeConns(l.t); return nil })
			l.upgradeHere()
			l.read(func(i *datapath.Instance) error { i.MustRunOwnConns(l.t); return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newConnBench(t, most)
			l := &upgradeLab{bench: b.bench, other: otherSynward(t), state: t.TempDir()}
			server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
			first, second := b.begin(server.Addr(), most/2), b.begin(server.Addr(), most)
			b.mustCount(most)
			knocked, stop := make(chan testenv.HammerResult, 1), make(chan struct{})
			halt := sync.OnceFunc(func() { close(stop) })
			defer halt()
			go func() { knocked <- b.hammerUntil(stop, server, b.ClientIP4) }()
			for range 3 {
				upgrade(l)
				b.mustCount(most)
			}
			halt()
			if r := <-knocked; r.Accepted != 0 || r.Attempted == 0 || server.Total() != most {
				t.Errorf("of %d more connections %d were made; the server accepted %d in all, want %d",
					r.Attempted, r.Accepted, server.Total(), most)
			}
			first.abort()
			second.abort()
			testenv.WaitFor(t, connsDeadline, "the server to have none", func() bool { return server.Open() == 0 })
			b.mustBeZero()
		})
	}
}
