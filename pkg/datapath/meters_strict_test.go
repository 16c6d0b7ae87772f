// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// fileLimit is a limit as a policy file has it, on one bucket of the table.
func fileLimit(t *testing.T, l policy.Limit) limiterLimit {
	t.Helper()
	p := &policy.Policy{Services: []policy.Service{{Name: "s", Listen: []policy.Listen{{Proto: policy.TCP, Last: 65535}}, Limits: []policy.Limit{l}}}}
	p.Normalize()
	must(t, p.Validate())
	compiled, err := compileLimit(p.Services[0].Limits[0])
	must(t, err)
	compiled.BucketMask = 0
	return compiled.limiterLimit
}

// admittedAt is when connections of one source are admitted that come at these times.
func (l *meterLab) admittedAt(times []uint64) (at []uint64) {
	l.t.Helper()
	steps := make([]metersTestStep, len(times))
	for n, now := range times {
		steps[n] = step(0, 1<<50, now)
	}
	for n, v := range l.charge(steps...) {
		if v == admitted {
			at = append(at, times[n])
		}
	}
	return at
}

// A strict limit admits at most COUNT in any window of its period, both ends included, whatever is sent.
func TestStrictHoldsInAnyWindow(t *testing.T) {
	l := newMeterLab(t)
	r := rand.New(rand.NewPCG(testSeed(t), 11))
	for _, c := range []policy.Limit{
		{Rate: policy.Rate{Count: 3, Period: time.Minute}}, {Rate: policy.Rate{Count: 100, Period: time.Hour}},
		{Rate: policy.Rate{Count: 1, Period: time.Minute}}, {Rate: policy.Rate{Count: 2, Period: time.Second}},
		{Rate: policy.Rate{Count: 10, Period: time.Second}, Burst: 9}, {Rate: policy.Rate{Count: 1000, Period: time.Second}},
	} {
		c.Kind, c.Per, c.Strict = policy.KindNew, policy.PerSource, true
		for how, gap := range map[string]uint64{"hammer": 50, "a little above": 2, "at the rate": 1} {
			t.Run(fmt.Sprintf("%s burst %d, %s", c.Rate, c.Burst, how), func(t *testing.T) {
				l.t = t
				l.useAt(meterEpoch, fileLimit(t, c))
				interval := uint64(c.Rate.Period) / c.Rate.Count / gap
				times, now := make([]uint64, 20_000), meterEpoch
				for n := range times {
					now += r.Uint64N(2*interval + 1)
					times[n] = now
				}
				checkWindows(t, l.admittedAt(times), c.Rate)
			})
		}
	}
}

// checkWindows wants at most the rate's count in any closed window of its period, and most of what may be.
func checkWindows(t *testing.T, at []uint64, rate policy.Rate) {
	t.Helper()
	first := 0
	for n := range at {
		for at[n]-at[first] > uint64(rate.Period) {
			first++
		}
		if in := uint64(n - first + 1); in > rate.Count {
			t.Fatalf("%d admitted within %v, strict at %s", in, time.Duration(at[n]-at[first]), rate)
		}
	}
	if len(at) < 2 {
		t.Fatalf("only %d admitted", len(at))
	}
}

// `3/100s` beside the same with count_rejected: who keeps trying gets three, and then one more each time the
// bucket has refilled by one, or nothing; who has been quiet for that time gets one in both.
func TestCountRejectedKeepsOutWhoKeepsTrying(t *testing.T) {
	l := newMeterLab(t)
	limit := policy.Limit{Kind: policy.KindNew, Per: policy.PerSource, Rate: policy.Rate{Count: 3, Period: 100 * time.Second}}
	var hammer []uint64
	for n := range uint64(1000) {
		hammer = append(hammer, meterEpoch+n*uint64(time.Second))
	}
	for _, counted := range []bool{false, true} {
		limit.CountRejected = counted
		l.useAt(meterEpoch, fileLimit(t, limit))
		want := 3 + 1000*3/100 - 1
		if counted {
			want = 3
		}
		at := l.admittedAt(hammer)
		if len(at) != want && len(at) != want+1 {
			t.Errorf("count_rejected %v: %d of 1000 admitted in 1000s, want %d", counted, len(at), want)
		}
		quiet := hammer[len(hammer)-1]
		late := l.admittedAt([]uint64{quiet + uint64(33*time.Second), quiet + uint64(68*time.Second)})
		if counted && (len(late) != 1 || late[0] != quiet+uint64(68*time.Second)) {
			t.Errorf("count_rejected: admitted after 33s and 68s of quiet, but for one try: %d", len(late))
		}
	}
}
