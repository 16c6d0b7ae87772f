// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// needCPUs ends a test of what two CPUs do at once where there is one.
func needCPUs(t *testing.T) {
	t.Helper()
	if runtime.NumCPU() < 2 {
		t.Skip("this machine has one CPU; the test needs two")
	}
}

// coarseTick is how far the data path's clock may stand behind.
func coarseTick(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// most is what a limit admits of one source in any window: B + W/T.
func most(l *policy.NewLimit, window time.Duration) uint64 {
	return l.Burst + uint64(float64(window)*float64(l.Rate.Count)/float64(l.Rate.Period))
}

// live counts what a bench judges of floods from its client.
type live struct {
	*bench
	instance *datapath.Instance
	index    int
	next     netip.Addr
}

func newLive(t *testing.T, mode datapath.Mode, limit *policy.NewLimit) *live {
	t.Helper()
	needCPUs(t)
	l := &live{bench: newBench(t, testenv.PairOptions{GRO: true}), next: netip.MustParseAddr("198.18.0.1")}
	l.attach(mode, limit)
	var err error
	if l.index, err = l.ClientIndex(); err == nil {
		err = l.Server.Do(func() (err error) { l.instance, err = datapath.Open(l.pinDir); return err })
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.instance.Close() })
	return l
}

// outcome is one flood: sent frames, what they were counted as, and how long it took by the test's clock.
type outcome struct {
	sent   uint64
	counts tally
	outer  time.Duration
	// inner is how long each source was seen, by the ledger: a sender that has to wait for its CPU ends
	// early, and the last frames that a queue held come late.
	inner []time.Duration
}

// flood sends SYNs of sources that were never seen before, from two CPUs at once. Their number must be odd:
// each CPU sends every second frame, and all of them are to come from both.
func (l *live) flood(sources uint64) outcome {
	l.t.Helper()
	first := l.next
	for range sources {
		l.next = l.next.Next()
	}
	client, err := l.Client.MAC(l.ClientIf)
	server, serverErr := l.Server.MAC(l.ServerIf)
	if err := errors.Join(err, serverErr); err != nil {
		l.t.Fatal(err)
	}
	before, begin := tallyOf(l.t, l.instance), time.Now()
	sent, err := tg.Run(context.Background(), tg.Options{
		Namespace: l.Client, Ifindex: l.index, CPUs: []int{0, 1}, Duration: floodTime,
		Template: tg.SYN(netip.AddrPortFrom(first, 1), netip.AddrPortFrom(l.ServerIP4, 8080)).With(tg.MACs(client, server)),
		Mix:      tg.Sources(first, sources),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	counts, outer := tallyOf(l.t, l.instance).minus(before), time.Since(begin)
	return outcome{sent, counts, outer, l.seen(first)}
}

// seen is the time from the first to the last that the ledger tells of each source from first on.
func (l *live) seen(first netip.Addr) (out []time.Duration) {
	l.t.Helper()
	all, err := l.instance.Sources()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, s := range all {
		if addr := s.Prefix.Addr(); !addr.Less(first) && addr.Less(l.next) {
			out = append(out, s.LastSeen.Sub(s.FirstSeen))
		}
	}
	return out
}

const floodTime = time.Second

// hold wants an outcome within the limit of each of its sources, and returns whether nearly all of it was
// used. A machine that is too slow to send several times as much cannot tell, and is not asked.
func (l *live) hold(o outcome, sources uint64, limit *policy.NewLimit) (used bool) {
	l.t.Helper()
	admitted := o.counts["under_limit pass"]
	atMost, atLeast := sources*most(limit, o.outer+coarseTick(l.t)), uint64(0)
	for _, inner := range o.inner {
		atLeast += most(limit, inner)
	}
	atLeast = atLeast * 98 / 100
	l.t.Logf("sent %d in %v, judged %v: %d to %d may be admitted", o.sent, o.outer, o.counts, atLeast, atMost)
	if uint64(len(o.inner)) != sources {
		l.t.Errorf("the ledger holds %d of %d sources", len(o.inner), sources)
	}
	if admitted > atMost {
		l.t.Errorf("admitted %d, more than %d", admitted, atMost)
	}
	if contended := o.counts["contended drop"]; contended > o.sent/10_000 {
		l.t.Errorf("contended %d of %d", contended, o.sent)
	}
	for end := range o.counts {
		if end != "under_limit pass" && end != "over_new drop" && end != "contended drop" {
			l.t.Errorf("counted %d as %s", o.counts[end], end)
		}
	}
	return admitted >= atLeast || admitted+o.counts["over_new drop"] < 3*atMost
}

// A source is admitted B + W/T and no more, on however many CPUs its SYNs land, its first one included. A
// flood that stops and starts again with a busy machine may use less; a refill that is lost is lost in all.
func TestLiveFloodOnTwoCPUsIsExact(t *testing.T) {
	for sources, limit := range map[uint64]*policy.NewLimit{1: rate(1000, time.Second, 500), 63: rate(100, time.Second, 50)} {
		t.Run(fmt.Sprintf("%d sources", sources), func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode datapath.Mode) {
				newLive(t, mode, limit).holdAll(mode, sources, limit)
			})
		})
	}
}

// holdAll sends ten floods by native XDP, three in the modes that share all else, and in guests of test-vm.
func (l *live) holdAll(mode datapath.Mode, sources uint64, limit *policy.NewLimit) {
	l.t.Helper()
	floods, used := 3, 0
	if mode == datapath.ModeNative {
		floods = often(10, 3)
	}
	for range floods {
		if l.hold(l.flood(sources), sources, limit) {
			used++
		}
	}
	if used == 0 {
		l.t.Errorf("none of %d floods of %d sources was admitted 98 %% of its limit", floods, sources)
	}
}

// Where the rate plays no part the burst is admitted to the last connection.
func TestLiveFloodOnTwoCPUsGetsTheBurst(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		const burst = 1000
		l := newLive(t, mode, rate(1, 24*time.Hour, burst))
		for _, sources := range []uint64{1, 15} {
			o := l.flood(sources)
			l.t.Logf("sent %d, judged %v", o.sent, o.counts)
			admitted, judged := o.counts["under_limit pass"], uint64(0)
			for n := range maps.Values(o.counts) {
				judged += n
			}
			if admitted > sources*burst || admitted < sources*burst && judged > 4*sources*burst {
				t.Errorf("admitted %d of %d sources, want %d each", admitted, sources, burst)
			}
		}
	})
}

// pinnedProgram is the program of the one attachment.
func (b *bench) pinnedProgram() *ebpf.Program {
	b.t.Helper()
	found, err := filepath.Glob(filepath.Join(b.pinDir, "progs", "*"))
	if err != nil || len(found) != 1 {
		b.t.Fatalf("pinned programs: %v, %v; want one", found, err)
	}
	program, err := ebpf.LoadPinnedProgram(found[0], nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { program.Close() })
	return program
}

// runTogether runs a program on a frame on two CPUs that begin at the same moment.
func runTogether(program *ebpf.Program, frame []byte, repeat uint32) error {
	var ready atomic.Int32
	var running sync.WaitGroup
	errs := make([]error, 2)
	for cpu := range errs {
		running.Go(func() {
			errs[cpu] = onCPU(cpu, func() error {
				for ready.Add(1); ready.Load() < int32(len(errs)); {
				}
				_, err := program.Run(&ebpf.RunOptions{Data: frame, Repeat: repeat})
				return err
			})
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

func onCPU(cpu int, fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	only.Set(cpu)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("pin to cpu %d: %w", cpu, err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }()
	return fn()
}

// Two CPUs that judge one source at once admit its burst to the last connection, and lose none.
func TestTwoCPUsAdmitTheBurstExactly(t *testing.T) {
	const burst, repeat, runs = 1000, 10_000, 50
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		l := newLive(t, mode, rate(1, 24*time.Hour, burst))
		program := l.pinnedProgram()
		contended := uint64(0)
		for run := range runs {
			l.next = l.next.Next()
			syn := tg.SYN(netip.AddrPortFrom(l.next, 4000), netip.AddrPortFrom(l.ServerIP4, 8080))
			before := tallyOf(t, l.instance)
			if err := runTogether(program, syn.Bytes(), repeat); err != nil {
				t.Fatal(err)
			}
			got := tallyOf(t, l.instance).minus(before)
			admitted, lost := got["under_limit pass"], got["contended drop"]
			// A run that a signal interrupts is begun again.
			if contended += lost; admitted != burst || got["over_new drop"]+lost < 2*repeat-burst {
				t.Errorf("run %d: counted %v, want %d admitted and the other %d refused", run, got, burst, 2*repeat-burst)
			}
		}
		if t.Logf("contended %d of %d", contended, 2*repeat*runs); contended > runs*repeat/1000 {
			t.Errorf("contended %d of %d", contended, 2*repeat*runs)
		}
	})
}
