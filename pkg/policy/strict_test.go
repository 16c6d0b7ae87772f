// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The intervals and bursts of strict limits, and of those beside them in the docs.
func TestRefill(t *testing.T) {
	for text, want := range map[string]struct {
		burst    uint64
		interval time.Duration
	}{
		"{per: source, new: 50/s, burst: 100}":              {100, 20 * time.Millisecond},
		"{per: source, new: 3/s}":                           {3, 333333334},
		"{per: source, new: 3/100s}":                        {3, 33333333334},
		"{per: source, new: 3/min, strict: true}":           {1, 30 * time.Second},
		"{per: source, new: 3/min, strict: true, burst: 2}": {2, time.Minute},
		"{per: source, new: 100/h, strict: true}":           {50, 72 * time.Second},
		"{per: source, new: 2/min, strict: true}":           {1, time.Minute},
		"{per: source, new: 1/min, strict: true}":           {1, 61200 * time.Millisecond},
		"{per: source, packets: 7/s, strict: true}":         {3, 250 * time.Millisecond},
		"{per: source, concurrent: 7}":                      {0, 0},
		"{per: source, bytes_in: 10kB/s, strict: true}":     {5000, 0},
	} {
		l := oneLimit(t, text)
		if l.Burst != want.burst || l.Interval() != want.interval {
			t.Errorf("%s: burst %d, interval %v, want %v", text, l.Burst, l.Interval(), want)
		}
	}
	if got, want := oneLimit(t, "{per: source, bytes_in: 10kB/s, burst: 4kB, strict: true}").Refill(), (Rate{6000, time.Second}); got != want {
		t.Errorf("strict bytes refill at %v, want %v", got, want)
	}
}

// oneLimit is a limit as the parser makes it.
func oneLimit(t *testing.T, text string) Limit {
	t.Helper()
	return mustParse(t, "version: 1\nservices: [{name: a, listen: [443/tcp], limits: ["+text+"]}]").Services[0].Limits[0]
}

// A strict limit admits at most COUNT in any window of the period, both ends included, whatever comes when;
// any other COUNT and a burst. COUNT is reached.
func TestNoWindowHoldsMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limit{Kind: KindNew, Per: PerSource, Strict: rapid.Bool().Draw(t, "strict")}
		l.Rate = Rate{rapid.Uint64Range(1, 12).Draw(t, "count"), time.Duration(rapid.Int64Range(2000, 9000).Draw(t, "period"))}
		l.Burst = rapid.Uint64Range(1, 14).Draw(t, "burst")
		if l.Strict {
			l.Burst = min(l.Burst, max(l.Rate.Count-1, 1))
		}
		most := l.Rate.Count
		if !l.Strict {
			most += l.Burst
		}
		admitted := drive(t, l)
		if got := fullestWindow(admitted, l.Rate.Period); got > most {
			t.Fatalf("%d in one window of %v, by the limit %s: %v", got, l.Rate.Period, l, admitted)
		}
	})
}

// drive offers connections at random, and just when the next could be admitted, and returns when one was.
func drive(t *rapid.T, l Limit) []time.Duration {
	m, now := l.NewMeter(), time.Duration(0)
	var admitted []time.Duration
	for range 60 {
		switch rapid.IntRange(0, 3).Draw(t, "gap") {
		case 0:
			now += time.Duration(rapid.Int64Range(0, int64(l.Rate.Period)).Draw(t, "wait"))
		case 1:
			now += l.Interval()
		case 2:
			now += l.Rate.Period
		}
		if m.Admit(now, 1) {
			admitted = append(admitted, now)
		}
	}
	return admitted
}

func fullestWindow(admitted []time.Duration, window time.Duration) uint64 {
	most := 0
	for i, from := range admitted {
		n := 0
		for _, at := range admitted[i:] {
			if at-from <= window {
				n++
			}
		}
		most = max(most, n)
	}
	return uint64(most)
}

// The guarantee is not bought by admitting less than it says: COUNT come through in one window.
func TestStrictReachesCount(t *testing.T) {
	for count := uint64(1); count <= 40; count++ {
		for burst := uint64(1); burst < max(count, 2); burst++ {
			l := Limit{Kind: KindNew, Per: PerSource, Strict: true, Rate: Rate{count, time.Hour}, Burst: burst}
			m := l.NewMeter()
			admitted := uint64(0)
			for range burst {
				if m.Admit(0, 1) {
					admitted++
				}
			}
			for at := l.Interval(); at <= time.Hour+time.Duration(count); at += l.Interval() {
				if m.Admit(at, 1) {
					admitted++
				}
			}
			if admitted != count {
				t.Errorf("strict %d/h burst %d admits %d", count, burst, admitted)
			}
		}
	}
}

// A strict limit holds too where the clock is coarse by what the data path allows: a tick of a hundredth of B*T
// and a unit of T/128. With a burst above 99 the tick may be longer than T, and the clock has to be exact.
func TestStrictUnderACoarseClock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limit{Kind: KindNew, Per: PerSource, Strict: true}
		l.Rate = Rate{rapid.Uint64Range(1, 12).Draw(t, "count"), time.Duration(rapid.Int64Range(1e6, 9e9).Draw(t, "period"))}
		l.Burst = rapid.Uint64Range(1, max(l.Rate.Count-1, 1)).Draw(t, "burst")
		coarse := time.Duration(l.Burst)*l.Interval()/100 + l.Interval()/128
		m, now := l.NewMeter(), time.Duration(0)
		var admitted []time.Duration
		for range 60 {
			now += time.Duration(rapid.SampledFrom([]int64{0, int64(l.Interval()) - int64(coarse), int64(l.Interval()),
				int64(l.Rate.Period), 1}).Draw(t, "wait"))
			if m.Admit(now-now%coarse, 1) {
				admitted = append(admitted, now)
			}
		}
		if got := fullestWindow(admitted, l.Rate.Period); got > l.Rate.Count {
			t.Fatalf("%d in one window of %v, by the limit %s: %v", got, l.Rate.Period, l, admitted)
		}
	})
}

// 3/100s with count_rejected: three are accepted, then none while it keeps trying; without, one more each time
// that one has come back.
func TestMeterCountRejected(t *testing.T) {
	for limit, want := range map[string]int{
		"{per: source, new: 3/100s}":                       11,
		"{per: source, new: 3/100s, count_rejected: true}": 3,
	} {
		m, admitted := oneLimit(t, limit).NewMeter(), 0
		for second := range 301 {
			if m.Admit(time.Duration(second)*time.Second, 1) {
				admitted++
			}
		}
		if admitted != want {
			t.Errorf("%s admits %d in 300 seconds, want %d", limit, admitted, want)
		}
	}
}
