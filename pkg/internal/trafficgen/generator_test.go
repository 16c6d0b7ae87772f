// SPDX-License-Identifier: Apache-2.0

package trafficgen

//go:generate go tool bpf2go -target bpfel capture capture.bpf.c -- -O2 -g -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/synward/synward/pkg/internal/testenv"
)

const (
	deadline = 30 * time.Second
	// settled is when a frame that has not arrived is lost.
	settled = 3 * time.Second
)

// lab is a pair whose server counts what arrives.
type lab struct {
	*testenv.Pair
	capture captureObjects
	xdp     link.Link
}

// newLab attaches the counting program; what it counts it drops, so the stack is not flooded.
func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{Pair: testenv.NewPair(t, testenv.PairOptions{})}
	if err := loadCaptureObjects(&l.capture, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.capture.Close() })
	l.attach(t, l.capture.CountSources)
	return l
}

// attach puts a program on the server's end, in place of the one that is there.
func (l *lab) attach(t testing.TB, program *ebpf.Program) {
	t.Helper()
	if l.xdp != nil {
		if err := l.xdp.Update(program); err != nil {
			t.Fatal(err)
		}
		return
	}
	err := l.Server.Do(func() error {
		index, err := l.ServerIndex()
		if err != nil {
			return err
		}
		l.xdp, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: index, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.xdp.Close() })
}

// options is a flood from the client to port 80 of the server.
func (l *lab) options(t testing.TB, dst netip.Addr) Options {
	t.Helper()
	index, err := l.ClientIndex()
	if err != nil {
		t.Fatal(err)
	}
	from := netip.AddrPortFrom(l.ClientIP4, 4000)
	if dst.Is6() {
		from = netip.AddrPortFrom(l.ClientIP6, 4000)
	}
	template := SYN(from, netip.AddrPortFrom(dst, 80)).With(MACs(l.macs(t)))
	return Options{Namespace: l.Client, Ifindex: index, Template: template}
}

func (l *lab) macs(t testing.TB) (client, server []byte) {
	t.Helper()
	client, err := l.Client.MAC(l.ClientIf)
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.Server.MAC(l.ServerIf); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func (l *lab) total(t testing.TB) uint64 {
	t.Helper()
	var n uint64
	if err := l.capture.Total.Get(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// sources waits until n frames have arrived and returns them by source.
func (l *lab) sources(t *testing.T, n uint64) map[netip.Addr]uint64 {
	t.Helper()
	testenv.WaitFor(t, deadline, "all frames to arrive", func() bool { return l.total(t) >= n })
	got := map[netip.Addr]uint64{}
	var key captureSource
	var count uint64
	for it := l.capture.Sources.Iterate(); it.Next(&key, &count); {
		got[sourceAddr(key)] = count
	}
	if total := l.total(t); total != n {
		t.Errorf("%d frames arrived, want %d", total, n)
	}
	return got
}

func sourceAddr(key captureSource) netip.Addr {
	if [12]byte(key.Addr[4:]) == [12]byte{} {
		return netip.AddrFrom4([4]byte(key.Addr[:4]))
	}
	return netip.AddrFrom16(key.Addr)
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

var mixes = map[string]Mix{
	"ten in sequence":  Sources(netip.MustParseAddr("10.78.0.250"), 10),
	"one":              Sources(netip.MustParseAddr("10.78.1.1"), 1),
	"random":           Anywhere(prefix("10.78.0.0/20")),
	"anywhere":         Anywhere(prefix("0.0.0.0/0")),
	"shares":           {{Prefix: prefix("192.0.2.7/32"), Weight: 3}, {Prefix: prefix("10.9.0.0/16"), Random: true, Weight: 7}, {Prefix: prefix("10.8.0.5/16"), Count: 33}},
	"every 24":         {{Prefix: prefix("10.0.0.9/8"), Unit: 24}},
	"v6 in sequence":   Sources(netip.MustParseAddr("fd80::ffff:ffff:ffff:fffd"), 10),
	"v6 each 64":       {{Prefix: prefix("fd80:1::9/48"), Unit: 64, Count: 500}},
	"v6 each 48":       {{Prefix: prefix("fd80::9/16"), Unit: 48, Random: true}},
	"v6 random":        Anywhere(prefix("fd80::/16")),
	"v6 random, heavy": {{Prefix: prefix("fd80:2::1/128"), Weight: 1000}, {Prefix: prefix("fd81::/32"), Random: true, Weight: 24}},
}

func TestSourcesThatArriveAreThoseOfTheSchedule(t *testing.T) {
	for name, mix := range mixes {
		t.Run(name, func(t *testing.T) {
			const frames = 20_000
			l := floodWhole(t, mix, frames)
			expectSources(t, l.sources(t, frames), mix, 42, 0, frames)
		})
	}
}

// floodWhole sends a flood until one arrives whole: as fast as it is sent, a receiver on a loaded machine may lose
// some of it, but not each time.
func floodWhole(t *testing.T, mix Mix, frames uint64) (l *lab) {
	t.Helper()
	for range 5 {
		l = newLab(t)
		dst := l.ServerIP4
		if mix[0].Prefix.Addr().Is6() {
			dst = l.ServerIP6
		}
		opts := l.options(t, dst)
		opts.Mix, opts.Packets, opts.Seed = mix, frames, 42
		if sent, err := Run(context.Background(), opts); err != nil || sent != frames {
			t.Fatalf("sent %d (%v), want %d", sent, err, frames)
		}
		end := time.Now().Add(settled)
		for l.total(t) < frames && time.Now().Before(end) {
			<-time.After(time.Millisecond)
		}
		if l.total(t) >= frames {
			return l
		}
	}
	return l
}

func expectSources(t *testing.T, got map[netip.Addr]uint64, mix Mix, seed, first, frames uint64) {
	t.Helper()
	schedule, err := NewSchedule(mix, seed)
	if err != nil {
		t.Fatal(err)
	}
	want := map[netip.Addr]uint64{}
	for k := first; k < first+frames; k++ {
		want[schedule.Source(k)]++
	}
	for addr, n := range want {
		if got[addr] != n {
			t.Fatalf("%d frames from %s, want %d (%d sources, want %d)", got[addr], addr, n, len(got), len(want))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d sources, want %d", len(got), len(want))
	}
}

func TestTwoSendersShareOneSchedule(t *testing.T) {
	l := newLab(t)
	opts := l.options(t, l.ServerIP4)
	opts.Mix, opts.Packets, opts.First, opts.CPUs = mixes["shares"], 10_001, 777, []int{0, 1}
	if sent, err := Run(context.Background(), opts); err != nil || sent != opts.Packets {
		t.Fatalf("sent %d (%v), want %d", sent, err, opts.Packets)
	}
	expectSources(t, l.sources(t, opts.Packets), opts.Mix, 0, 777, opts.Packets)
}

func TestRateAndDurationBoundAFlood(t *testing.T) {
	l := newLab(t)
	opts := l.options(t, l.ServerIP4)
	opts.Mix, opts.Rate, opts.Duration = mixes["random"], 20_000, 200*time.Millisecond
	sent, err := Run(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if sent < 1000 || sent > 4001 {
		t.Errorf("sent %d in 200 ms at 20,000 a second, want about 4,000 and not more", sent)
	}
	l.sources(t, sent)
	opts.Rate, opts.Packets, opts.Duration = 1000, 101, 0
	begin := time.Now()
	if sent, err = Run(context.Background(), opts); err != nil || sent != 101 {
		t.Fatalf("sent %d (%v), want 101", sent, err)
	}
	if took := time.Since(begin); took < 99*time.Millisecond {
		t.Errorf("101 at 1,000 a second took %v", took)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	l := newLab(t)
	opts := l.options(t, l.ServerIP4)
	opts.Mix, opts.Rate, opts.Duration = mixes["one"], 1, time.Hour
	ctx, cancel := context.WithCancel(context.Background())
	type result struct {
		sent uint64
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		sent, err := Run(ctx, opts)
		ended <- result{sent, err}
	}()
	testenv.WaitFor(t, deadline, "the first frame", func() bool { return l.total(t) > 0 })
	cancel()
	if got := <-ended; !errors.Is(got.err, context.Canceled) || got.sent == 0 {
		t.Errorf("sent %d, error %v, want at least one and that it was canceled", got.sent, got.err)
	}
}

func TestRunRefusesWhatMakesNoSense(t *testing.T) {
	l := newLab(t)
	good := l.options(t, l.ServerIP4)
	good.Mix, good.Packets = mixes["one"], 1
	for name, spoil := range map[string]func(*Options){
		"no namespace": func(o *Options) { o.Namespace = nil },
		"no bound":     func(o *Options) { o.Packets = 0 },
		"no interface": func(o *Options) { o.Ifindex = 0 },
		"no link":      func(o *Options) { o.Template.NoLink = true },
		"other family": func(o *Options) { o.Mix = mixes["v6 random"] },
		"no mix":       func(o *Options) { o.Mix = nil },
		"not IP":       func(o *Options) { o.Template = Raw(EtherTypeLocalExp, nil) },
		"ports":        func(o *Options) { o.Ports = Ports{9, 8} },
	} {
		opts := good
		spoil(&opts)
		if sent, err := Run(context.Background(), opts); err == nil || sent != 0 {
			t.Errorf("%s: sent %d, error %v", name, sent, err)
		}
	}
	if total := l.total(t); total != 0 {
		t.Errorf("%d frames arrived", total)
	}
}
