// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/synward/synward/pkg/internal/testenv"
)

// dialMany opens connections at once, and returns those that the client takes for open.
func (b connBench) dialMany(src netip.Addr, dst netip.AddrPort, count int, timeout time.Duration) []net.Conn {
	b.t.Helper()
	var mu sync.Mutex
	var open []net.Conn
	var running sync.WaitGroup
	for range count {
		running.Go(func() {
			conn, err := testenv.Dial(b.Client, src, dst, timeout)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			open = append(open, conn)
		})
	}
	running.Wait()
	return open
}

func closeAll(conns []net.Conn) {
	for _, conn := range conns {
		_ = testenv.Abort(conn)
	}
}

// A thousand connects at once from one source against a limit of 100: 100 are established, never one more, and
// nothing is left in the end.
func TestConcurrentIsExact(t *testing.T) {
	b := newConnBench(t, 100)
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	for run := range 20 {
		server.Reset()
		open := b.dialMany(b.ClientIP4, server.Addr(), 1000, 900*time.Millisecond)
		b.mustCount(100)
		testenv.WaitFor(t, connsDeadline, "the server to accept 100", func() bool { return server.Open() >= 100 })
		if got := server.Total(); got != 100 {
			t.Errorf("run %d: the server accepted %d, want 100; %+v", run, got, b.tallies())
		}
		closeAll(open)
		b.mustBeZero()
		testenv.WaitFor(t, connsDeadline, "the server to close all", func() bool { return server.Open() == 0 })
	}
	t.Logf("%+v", b.tallies())
}
