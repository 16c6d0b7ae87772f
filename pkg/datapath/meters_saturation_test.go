// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// newcomers makes count new sources, each with so many SYNs at once, that come at random at a rate.
func newcomers(r *rand.Rand, limit, count, each int, perSecond float64) (steps []metersTestStep) {
	now := float64(meterEpoch)
	for range count {
		now += r.ExpFloat64() * float64(time.Second) / perSecond
		hash := r.Uint64()
		for range each {
			steps = append(steps, step(limit, hash, uint64(now)))
		}
	}
	return steps
}

// Up to the rate that is printed for a table it refuses no newcomer, but for one in 100,000, whether sources make one
// connection each or use up their burst.
func TestMeterHoldsWhatIsPrinted(t *testing.T) {
	l := newMeterLab(t)
	r := rand.New(rand.NewPCG(testSeed(t), 0))
	const buckets, decisions = 256, 200_000
	for _, burst := range []uint64{1, 2, 3, 4, 16, 100} {
		limit := meterLimit(t, perSecond(50, burst), buckets)
		table := tableOf(limit)
		for each, rate := range map[int]uint64{1: table.Singles, int(burst): table.Bursts} {
			t.Run(fmt.Sprintf("burst %d, %d each", burst, each), func(t *testing.T) {
				l.use(limit)
				aliases, refused := 0, 0
				for _, verdict := range l.charge(newcomers(r, 0, decisions/each, each, float64(rate))...) {
					switch verdict {
					case admitted:
					case over: // two sources with one tag: about one in eight million in the same bucket
						aliases++
					case full:
						refused++
					default:
						t.Fatalf("at %d new sources a second a decision is %d", rate, verdict)
					}
				}
				// By chance a bucket gets all its slots' worth at once: what is printed is for one newcomer in 100,000.
				if refused > 2*each {
					t.Errorf("at %d new sources a second %d of %d decisions were refused", rate, refused, decisions)
				}
				if aliases > 2*each {
					t.Errorf("%d of %d met another source's tag", aliases, decisions)
				}
			})
		}
	}
}

// A spoofed flood on a slow limit takes nothing from a fast one: offenders at three times their 50/s
// get just their limit, and newcomers to it meet no full bucket.
func TestMeterHorizonsAreApart(t *testing.T) {
	l := newMeterLab(t)
	r := rand.New(rand.NewPCG(testSeed(t), 1))
	const buckets, offenders, seconds = 128, 20, 20
	slow := meterLimit(t, policy.NewLimit{Rate: policy.Rate{Count: 3, Period: 100 * time.Second}, Burst: 3}, buckets)
	fast := meterLimit(t, perSecond(50, 100), buckets)
	fast.FirstBucket = buckets
	l.use(slow, fast)
	keys := make([]uint64, offenders)
	for i := range keys {
		keys[i] = r.Uint64()
	}
	var steps []metersTestStep
	for ms := range seconds * 1000 {
		now := meterEpoch + uint64(ms)*uint64(time.Millisecond)
		for range 20 { // 20,000 spoofed SYNs a second
			steps = append(steps, step(0, r.Uint64(), now))
		}
		if ms%20 < 3 { // 150 a second
			for _, key := range keys {
				steps = append(steps, step(1, key, now))
			}
		}
		steps = append(steps, step(1, r.Uint64(), now))
	}
	got := map[uint64]int{}
	for n, verdict := range l.charge(steps...) {
		if steps[n].Limit == 1 && verdict == admitted {
			got[steps[n].Hash]++
		}
		if steps[n].Limit == 1 && verdict == full {
			t.Fatalf("step %d on the fast limit met a full bucket", n)
		}
	}
	for _, key := range keys {
		if most := 100 + 50*seconds; got[key] > most || got[key] < most*98/100 {
			t.Errorf("an offender got %d, its limit is %d", got[key], most)
		}
	}
}
