// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// together takes the lab's first count steps once on each of some CPUs at once, each with its own
// copy; the copies go step by step, so that all CPUs work on one key at the same moment.
func (l *meterLab) together(on []int, steps []metersTestStep) [][]metersTestStep {
	l.t.Helper()
	for i := range on {
		copy(l.steps[i*len(steps):], steps)
	}
	must(l.t, l.objects.Arrived.Set(uint64(0)))
	var all sync.WaitGroup
	errs := make([]error, len(on))
	for i, cpu := range on {
		all.Add(1)
		go func() {
			defer all.Done()
			errs[i] = pinned(cpu, func() error { return l.tryRun(job(i*len(steps), len(steps), len(on))) })
		}()
	}
	all.Wait()
	must(l.t, errors.Join(errs...))
	var out [][]metersTestStep
	for i := range on {
		out = append(out, l.steps[i*len(steps):(i+1)*len(steps)])
	}
	return out
}

// One key, judged by all CPUs at the same virtual instant, is admitted exactly as often as its burst
// allows: the first sight included, in a table with room and in one where each key is a newcomer.
func TestMeterIsExactAcrossCPUs(t *testing.T) {
	l := newMeterLab(t)
	on := cpus(t)
	if len(on) < 2 {
		t.Fatal("needs two CPUs")
	}
	r := rand.New(rand.NewPCG(testSeed(t), 6))
	for _, burst := range []uint64{1, 2, 5} {
		limit := meterLimit(t, perSecond(1000, burst), 64)
		horizon := limit.Capacity << limit.UnitShift
		for range 50 {
			l.reset(meterEpoch, limit)
			var steps []metersTestStep
			for now, key := meterEpoch, 0; key < 200; key++ {
				hash := r.Uint64()
				for range burst + 1 {
					steps = append(steps, step(0, hash, now))
				}
				now += horizon // nothing is owed any more when the next key comes
			}
			l.expectExact(on, steps, burst)
		}
	}
}

// expectExact wants each key admitted burst times over all CPUs, less what was contended.
func (l *meterLab) expectExact(on []int, steps []metersTestStep, burst uint64) {
	l.t.Helper()
	count, lost := map[uint64]uint64{}, map[uint64]bool{}
	for _, copied := range l.together(on, steps) {
		for _, s := range copied {
			switch s.Verdict {
			case admitted:
				count[s.Hash]++
			case contended:
				lost[s.Hash] = true
			}
		}
	}
	for _, s := range steps {
		if n := count[s.Hash]; n > burst || n < burst && !lost[s.Hash] {
			l.t.Fatalf("key %#x: %d admitted, want %d", s.Hash, n, burst)
		}
	}
}

// Sources that share full buckets, on clocks that differ by a tick: whoever is evicted by whom, none is
// admitted above its limit.
func TestMeterIsExactAcrossCPUsUnderPressure(t *testing.T) {
	l := newMeterLab(t)
	on := cpus(t)
	r := rand.New(rand.NewPCG(testSeed(t), 7))
	const burst, keys = 3, 24 // for 8 slots
	limit := meterLimit(t, perSecond(1000, burst), 1)
	const tick = uint64(4 * time.Millisecond)
	for range 50 {
		l.reset(meterEpoch, limit)
		hashes := make([]uint64, keys)
		for i := range hashes {
			hashes[i] = keyed(r.Uint64N(1<<22) + 1)
		}
		now := meterEpoch
		steps := make([]metersTestStep, 3000)
		for i := range steps {
			if r.IntN(20) == 0 {
				now += tick
			}
			steps[i] = step(0, hashes[r.IntN(keys)], now-tick*uint64(r.IntN(2)))
		}
		l.expectPromise(on, limit, steps, tick)
	}
}

// expectPromise wants no window over the admissions of any key on all CPUs to hold more than the limit
// allows in the window and one tick.
func (l *meterLab) expectPromise(on []int, limit limiterLimit, steps []metersTestStep, tick uint64) {
	l.t.Helper()
	all := l.together(on, steps)
	times := map[uint64][]uint64{}
	for i := range steps {
		for _, copied := range all {
			if copied[i].Verdict == admitted {
				times[copied[i].Hash] = append(times[copied[i].Hash], copied[i].NowNs)
			}
		}
	}
	limit.Capacity += tick>>limit.UnitShift + 1
	for hash, at := range times {
		slices.Sort(at)
		promise(l.t, limit, at, "key")
		if len(at) == 0 {
			l.t.Errorf("key %#x was never admitted", hash)
		}
	}
}
