// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// A client over the limit gets what GCRA allows: the burst, then the rate. One beside it notices
// nothing.
func TestLimitAdmitsBurstThenRate(t *testing.T) {
	eachModeAndFamily(t, func(b *bench, mode datapath.Mode, f family) {
		b.attach(mode, rate(10, time.Second, 20))
		server := b.server(f.server, testenv.ServerOptions{})
		const attempts, spacing, timeout = 150, 10 * time.Millisecond, 300 * time.Millisecond
		res, err := testenv.Hammer(b.Client, testenv.HammerOptions{
			Sources: []netip.Addr{f.client}, Dst: server.Addr(), Rate: float64(time.Second / spacing), Count: attempts, Timeout: timeout,
		})
		if err != nil {
			b.t.Fatal(err)
		}
		// On a busy machine the attempts take longer than they should, and then more are allowed.
		least := 20 + int((attempts-1)*spacing/(100*time.Millisecond))
		sending := max(res.Elapsed-timeout, (attempts-1)*spacing)
		most := 20 + int(sending/(100*time.Millisecond))
		if got := server.Count(f.client); got < least-1 || got > most+1 {
			b.t.Errorf("server accepted %d connections of the hammering client in %v, want %d to %d", got, sending, least, most)
		}
		for range 20 {
			b.mustConnect(server, f.beside)
		}
		if refused := b.packets("over_new"); refused != uint64(attempts-res.Accepted) {
			b.t.Errorf("over_new counts %d packets, want %d", refused, attempts-res.Accepted)
		}
	})
}

// TestOneSlash64IsOneSource: IPv6 by /128 would be free to rotate.
func TestOneSlash64IsOneSource(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		one, two := netip.MustParsePrefix("fd77:1:1:1::/64"), netip.MustParsePrefix("fd77:1:1:2::/64")
		b := newBench(t, testenv.PairOptions{ClientPrefixes: []netip.Prefix{one, two}})
		b.attach(mode, rate(1, 24*time.Hour, 7))
		server := b.server(netip.MustParseAddr("fd77::1"), testenv.ServerOptions{})
		for _, prefix := range []netip.Prefix{one, two} {
			server.Reset()
			var sources []netip.Addr
			for addr := prefix.Addr().Next(); len(sources) < 1000; addr = addr.Next() {
				sources = append(sources, addr)
			}
			_, err := testenv.Hammer(b.Client, testenv.HammerOptions{
				Sources: sources, Dst: server.Addr(), Count: len(sources), Rate: 2000,
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := server.Total(); got != 7 {
				t.Errorf("1000 addresses of %s: server accepted %d connections, want 7", prefix, got)
			}
		}
	})
}

// A changed limit holds from its first packet on, and a level survives it: nobody gets a fresh burst
// because the operator typed something.
func TestLimitChangesWhileItRuns(t *testing.T) {
	f := bothFamilies()["IPv4"]
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, rate(1, time.Hour, 3))
	server := b.server(f.server, testenv.ServerOptions{})
	for range 3 {
		b.mustConnect(server, f.client)
	}
	b.mustNotConnect(server, f.client)
	b.change(func(i *datapath.Instance) error { return i.SetLimit(rate(1, time.Hour, 5)) })
	b.mustConnect(server, f.client)
	b.mustConnect(server, f.client)
	b.mustNotConnect(server, f.client)
	b.change(func(i *datapath.Instance) error { return i.SetLimit(rate(100, time.Second, 2)) })
	b.mustConnect(server, f.client)
	b.change(func(i *datapath.Instance) error { return i.SetLimit(nil) })
	for range 10 {
		b.mustConnect(server, f.client)
	}
}

// Forget lets an offender in again, and check says beforehand what the kernel then does.
func TestCheckAgreesAndForgetClears(t *testing.T) {
	for name, f := range bothFamilies() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, testenv.PairOptions{})
			b.attach(datapath.ModeNative, rate(1, time.Hour, 2))
			server := b.server(f.server, testenv.ServerOptions{})
			verdict := func() (v datapath.Verdict) {
				b.change(func(i *datapath.Instance) (err error) {
					v, err = i.Check(f.client)
					return err
				})
				return v
			}
			for left := uint64(2); left > 0; left-- {
				if v := verdict(); v.Verdict != "pass" || v.Reason != "under_limit" || v.Left != left {
					t.Errorf("check with %d left: %+v", left, v)
				}
				b.mustConnect(server, f.client)
			}
			v := verdict()
			wait := time.Until(v.Until)
			if v.Verdict != "drop" || v.Reason != "over_new" || (wait-time.Hour).Abs() > time.Minute {
				t.Errorf("check over the limit: %+v", v)
			}
			b.mustNotConnect(server, f.client)
			b.change(func(i *datapath.Instance) error { return i.Forget(f.client) })
			if v := verdict(); v.Verdict != "pass" || v.Left != 2 {
				t.Errorf("check after forget: %+v", v)
			}
			b.mustConnect(server, f.client)
		})
	}
}
