// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

// bench is one server behind an attached interface, with a client on the other end of a veth.
type bench struct {
	*testenv.Pair
	t      *testing.T
	pinDir string
}

func newBench(t *testing.T, opts testenv.PairOptions) *bench {
	t.Helper()
	b := &bench{Pair: testenv.NewPair(t, opts), t: t, pinDir: testenv.BPFFS(t) + "/synward"}
	t.Cleanup(func() {
		if _, err := datapath.DetachAll(b.pinDir); err != nil {
			t.Errorf("detach --all: %v", err)
		}
	})
	return b
}

func (b *bench) attach(mode datapath.Mode, limit *policy.NewLimit) *datapath.AttachResult {
	b.t.Helper()
	var result *datapath.AttachResult
	err := b.Server.Do(func() (err error) {
		result, err = datapath.Attach(datapath.AttachOptions{
			PinDir: b.pinDir, Interface: b.ServerIf, Mode: mode, Limit: limit,
		})
		return err
	})
	if err != nil {
		b.t.Fatalf("attach: %v", err)
	}
	return result
}

func perSecond(count, burst uint64) *policy.NewLimit {
	return &policy.NewLimit{Rate: policy.Rate{Count: count, Period: time.Second}, Burst: burst}
}

// family is one address family's view of a bench: the server, the client, and one beside it.
type family struct{ server, client, beside netip.Addr }

func bothFamilies() map[string]family {
	return map[string]family{
		"IPv4": {netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("10.77.0.3")},
		"IPv6": {netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::2"), netip.MustParseAddr("fd77:0:0:1::3")},
	}
}

func eachMode(t *testing.T, test func(t *testing.T, mode datapath.Mode)) {
	for _, mode := range []datapath.Mode{datapath.ModeNative, datapath.ModeGeneric, datapath.ModeTC} {
		t.Run(string(mode), func(t *testing.T) { test(t, mode) })
	}
}

// A client over the limit gets what GCRA allows: the burst, then the rate. One beside it notices
// nothing.
func TestLimitAdmitsBurstThenRate(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, addr := range bothFamilies() {
			t.Run(name, func(t *testing.T) {
				b := newBench(t, testenv.PairOptions{ClientAddrs: []netip.Addr{addr.beside}})
				b.attach(mode, perSecond(10, 20))
				dst := netip.AddrPortFrom(addr.server, 8080)
				server := testenv.NewServer(t, b.Server, dst, testenv.ServerOptions{})
				checkHammer(t, b, server, dst, addr.client)
				checkNeighbour(t, b, server, dst, addr.beside)
			})
		}
	})
}

func checkHammer(t *testing.T, b *bench, server *testenv.Server, dst netip.AddrPort, src netip.Addr) {
	start := time.Now()
	res, err := testenv.Hammer(b.Client, testenv.HammerOptions{
		Sources: []netip.Addr{src}, Dst: dst, Rate: 100, Duration: 2 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := 20 + int(time.Since(start).Seconds()*10)
	got := server.Count(src)
	t.Logf("attempts %d, admitted %d, want %d: %+v", res.Attempted, got, want, res)
	if got > want || got < 20+18 {
		t.Errorf("server accepted %d connections of the hammering client, want %d", got, want)
	}
}

func checkNeighbour(t *testing.T, b *bench, server *testenv.Server, dst netip.AddrPort, src netip.Addr) {
	for range 20 {
		if err := testenv.Connect(b.Client, src, dst, 300*time.Millisecond); err != nil {
			t.Fatalf("the client beside it was refused: %v", err)
		}
	}
	if got := server.Count(src); got != 20 {
		t.Errorf("server accepted %d connections of the client beside it, want 20", got)
	}
}
