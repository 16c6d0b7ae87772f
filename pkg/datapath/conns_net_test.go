// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"sync"
	"testing"

	"github.com/synward/synward/pkg/internal/testenv"
)

// A thousand connects at once from one source against a limit of 100: 100 are established, never one more, also not
// when all others have sent their SYN again; and nothing is left in the end.
func TestConcurrentIsExact(t *testing.T) {
	b := newConnBench(t, 100)
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	for run := range often(20, 5) {
		server.Reset()
		before := b.packets("over_concurrent") + b.tallies().Refused
		open := b.beginOnTwoCPUs(server, 1000)
		b.mustCount(100)
		testenv.WaitFor(t, connsDeadline, "all others to be refused twice", func() bool {
			return b.packets("over_concurrent")+b.tallies().Refused-before >= 1800
		})
		testenv.WaitFor(t, connsDeadline, "the server to accept 100", func() bool { return server.Total() >= 100 })
		if got := server.Total(); got != 100 {
			t.Errorf("run %d: the server accepted %d, want 100; %+v", run, got, b.tallies())
		}
		b.mustCount(100)
		open.abort()
		b.mustBeZero()
	}
	b.mustHaveAsked()
	t.Logf("%+v", b.tallies())
}

// beginOnTwoCPUs has two threads begin half of the connections each.
func (b connBench) beginOnTwoCPUs(server *testenv.Server, count int) manyConns {
	var halves [2]manyConns
	var running sync.WaitGroup
	for n := range halves {
		running.Go(func() { halves[n] = b.begin(server.Addr(), count/2) })
	}
	running.Wait()
	return append(halves[0], halves[1]...)
}
