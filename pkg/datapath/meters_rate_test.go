// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// testRates reach from one in half a minute to a hundred thousand a second.
func testRates() map[string]policy.Rate {
	return map[string]policy.Rate{
		"3/100s": {Count: 3, Period: 100 * time.Second}, "3/min": {Count: 3, Period: time.Minute},
		"1/s": {Count: 1, Period: time.Second}, "7/3s": {Count: 7, Period: 3 * time.Second},
		"50/s": {Count: 50, Period: time.Second}, "997/s": {Count: 997, Period: time.Second},
		"1k/s": {Count: 1000, Period: time.Second}, "20k/s": {Count: 20_000, Period: time.Second},
		"100k/s": {Count: 100_000, Period: time.Second}, "1000/h": {Count: 1000, Period: time.Hour},
	}
}

// arrivals are how a sender spaces its n-th connection, in nanoseconds since it began.
func arrivals(r *rand.Rand, rate policy.Rate, burst uint64) map[string]func(n uint64) uint64 {
	period, count := uint64(rate.Period), rate.Count
	exact := func(n uint64) uint64 { return n * period / count }
	interval := period / count
	at := uint64(0)
	return map[string]func(n uint64) uint64{
		"just below": func(n uint64) uint64 { return exact(n) + n*(interval/400+1) },
		"at":         exact,
		"just above": func(n uint64) uint64 { return exact(n) - n*(interval/200) },
		"three":      func(n uint64) uint64 { return exact(n) / 3 },
		"hammer":     func(n uint64) uint64 { return exact(n) / 50 },
		"bursts":     func(n uint64) uint64 { return n / (2 * burst) * (burst + 1) * interval * 3 / 4 },
		"pauses":     func(n uint64) uint64 { return n / (3 * burst) * (burst + 2) * interval * 5 },
		"random": func(uint64) uint64 {
			at += r.Uint64N(interval + interval/3)
			return at
		},
	}
}

// Any rate, any way to send: the verdicts are those of GCRA, no window holds more than the limit, and
// who sends more than the rate gets the rate.
func TestMeterRates(t *testing.T) {
	l := newMeterLab(t)
	r := rand.New(rand.NewPCG(testSeed(t), 3))
	for name, rate := range testRates() {
		for _, burst := range []uint64{1, 2, 10, 100} {
			limit := meterLimit(t, policy.NewLimit{Rate: rate, Burst: burst}, 1)
			for how, when := range arrivals(r, rate, burst) {
				t.Run(fmt.Sprintf("%s burst %d/%s", name, burst, how), func(t *testing.T) {
					l.t = t
					l.tryArrivals(limit, rate, how, when)
				})
			}
		}
	}
}

func (l *meterLab) tryArrivals(limit limiterLimit, rate policy.Rate, how string, when func(uint64) uint64) {
	l.t.Helper()
	const hash = 0x123456789abcdef0
	steps := make([]metersTestStep, 4000)
	for n := range steps {
		steps[n] = step(0, hash, meterEpoch+when(uint64(n)))
	}
	verdicts := l.compare(l.reset(meterEpoch, limit), steps)
	times := admittedTimes(steps, verdicts, 0, hash)
	promise(l.t, limit, times, how)
	promiseInTime(l.t, rate, burstOf(&limit), times)
	window := float64(steps[len(steps)-1].NowNs - meterEpoch)
	perRate := window * float64(rate.Count) / float64(rate.Period)
	least := 0.0
	switch how {
	case "just below":
		least = float64(len(steps))
	case "at":
		if burstOf(&limit) > 1 { // a burst of one leaves no room for T being rounded up
			least = 0.997 * float64(len(steps))
		}
	case "just above", "three", "hammer":
		least = min(float64(burstOf(&limit))+0.997*perRate*(1-0.5/float64(burstOf(&limit)))-2, float64(len(steps)))
	}
	if float64(len(times)) < least {
		l.t.Errorf("%d of %d admitted, want at least %.0f", len(times), len(steps), least)
	}
}

// T is never rounded down, and up by two thousandths at most.
func TestCompiledLimitKeepsItsRate(t *testing.T) {
	for name, rate := range testRates() {
		for _, burst := range []uint64{1, 7, 100, 5000} {
			limit := meterLimit(t, policy.NewLimit{Rate: rate, Burst: burst}, 1)
			got := float64(limit.Cost<<limit.UnitShift) * float64(rate.Count) / float64(rate.Period)
			if got < 1 || got > 1.002 || limit.Capacity != limit.Cost*burst {
				t.Errorf("%s burst %d: T is %.6f of what it should be, capacity %d for cost %d", name, burst, got, limit.Capacity, limit.Cost)
			}
			if limit.Stale <= limit.Capacity || limit.Stale >= 1<<39 {
				t.Errorf("%s burst %d: stale %d for capacity %d", name, burst, limit.Stale, limit.Capacity)
			}
		}
	}
}

// A source that sends slowly beside one that hammers is never refused, however long.
func TestSlowSourceIsNotStarved(t *testing.T) {
	l := newMeterLab(t)
	for name, rate := range testRates() {
		limit := meterLimit(t, policy.NewLimit{Rate: rate, Burst: 3}, 1)
		interval := uint64(rate.Period) / rate.Count
		var steps []metersTestStep
		for n := range uint64(4000) {
			now := meterEpoch + n*interval/4
			steps = append(steps, step(0, 0x1111111111111111, now))
			if n%5 == 0 {
				steps = append(steps, step(0, 0x2222222222222222, now))
			}
		}
		verdicts := l.compare(l.reset(meterEpoch, limit), steps)
		if got := len(admittedTimes(steps, verdicts, 0, 0x2222222222222222)); got != 800 {
			t.Errorf("%s: %d of 800 admitted", name, got)
		}
	}
}
