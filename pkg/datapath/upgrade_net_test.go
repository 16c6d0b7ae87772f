// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// Under traffic on two interfaces the maps go to another layout and back, several times. No packet goes unjudged,
// no entry, policy or count is lost, and each time a source gets one burst more at most.
func TestUpgradeUnderTraffic(t *testing.T) {
	const burst, limits = 5, 5
	rounds := often(3, 1)
	eachUpgradeMode(t, func(t *testing.T, l *upgradeLab) {
		before := l.remember()
		server := l.second.server(l.second.ServerIP4, testenv.ServerOptions{})
		blocked := netip.MustParseAddr("198.18.5.5")
		if err := l.second.AddClientAddrs(blocked); err != nil {
			t.Fatal(err)
		}
		s := l.startStream(l.frames())
		hammered := make(chan testenv.HammerResult)
		stop := make(chan struct{})
		go func() { hammered <- l.second.hammerUntil(stop, server, l.second.ClientIP4, blocked) }()
		for range rounds {
			l.thereAndBack()
		}
		close(stop)
		real := <-hammered
		sent := s.stop()
		testenv.WaitFor(t, streamPatience, "all packets to be judged", func() bool { return l.tally().total() >= sent })
		t.Logf("%d frames, %d connections, ends: %v", sent, real.Attempted, l.tally())
		if real.Accepted == 0 || server.Count(blocked) != 0 || server.Count(l.second.ClientIP4) != real.Attempted/2 {
			t.Errorf("of two clients that take turns one is blocked: %+v; the server accepted %v", real, server.Counts())
		}
		l.mustRemember(before)
		l.mustAddUp()
		admitted := l.admitted("s")
		if most := uint64(limits * burst * (1 + 2*rounds)); admitted > most || admitted < limits*burst {
			t.Errorf("%d connections under limits of one a day were admitted, at most %d", admitted, most)
		}
	})
}

// admitted is what services with names that begin so have let through.
func (l *upgradeLab) admitted(prefix string) (n uint64) {
	l.read(func(i *datapath.Instance) error {
		services, err := i.Services()
		for _, s := range services {
			if len(s.Name) > 0 && s.Name[:1] == prefix {
				n += s.Admitted.Packets
			}
		}
		return err
	})
	return n
}

// hammerUntil makes real connections from sources in turns.
func (b *bench) hammerUntil(stop <-chan struct{}, server *testenv.Server, sources ...netip.Addr) (sum testenv.HammerResult) {
	for {
		select {
		case <-stop:
			return sum
		default:
		}
		r, err := testenv.Hammer(b.Client, testenv.HammerOptions{
			Sources: sources, Dst: server.Addr(), Rate: 200, Count: 2 * 20, Timeout: 900 * time.Millisecond,
		})
		if err != nil {
			b.t.Error(err)
			return sum
		}
		sum.Attempted += r.Attempted
		sum.Accepted += r.Accepted
		sum.NoAnswer += r.NoAnswer
		sum.Failed += r.Failed
	}
}
