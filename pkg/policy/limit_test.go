// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestLimitErrors(t *testing.T) {
	for name, c := range map[string]struct {
		limit NewLimit
		want  string
	}{
		"zero rate": {NewLimit{Rate{0, time.Second}, 1},
			`invalid rate "0/s": it would refuse every new connection; use at least 1, or a block list entry`},
		"no period": {NewLimit{Rate{5, 0}, 1}, `invalid rate "5/0s": the period must be above zero, as in 5/s`},
		"negative period": {NewLimit{Rate{5, -time.Second}, 1},
			`invalid rate "5/-1s": the period must be above zero, as in 5/s`},
		"zero burst": {NewLimit{Rate{5, time.Second}, 0},
			`invalid burst 0: it would refuse every new connection; use at least 1`},
		"above a slot": {NewLimit{Rate{7_812_501, time.Second}, 10},
			`invalid rate "7812501/s": it is above what a slot can hold; the highest rate is 7812500/s`},
		"far above a slot": {NewLimit{Rate{1 << 63, time.Second}, 10},
			`invalid rate "9223372036854775808/s": it is above what a slot can hold; the highest rate is 7812500/s`},
		"large burst": {NewLimit{Rate{5_000_000, time.Second}, MaxBurst + 1},
			`invalid burst 1073741825: it is too large; use at most 1073741824`},
		"long to drain": {NewLimit{Rate{1, Day}, 5000},
			`invalid burst 5000: at 1/d it takes more than 3650 days to drain; use at most 3650`},
		"overflow": {NewLimit{Rate{1, MaxHorizon}, MaxBurst},
			`invalid burst 1073741824: at 1/3650d it takes more than 3650 days to drain; use at most 1`},
		"long period": {NewLimit{Rate{1, 3651 * Day}, 1},
			`invalid rate "1/3651d": its period is too long; use at most 3650d for each connection`},
	} {
		checkInvalid(t, "Validate", name, c.limit.Validate(), c.want)
	}
}

func TestLimitBounds(t *testing.T) {
	for _, l := range []NewLimit{
		{Rate{1, time.Second}, 1},
		{Rate{7_812_500, time.Second}, MaxBurst},
		{Rate{1, MaxHorizon}, 1},
		{Rate{1, Day}, 3650},
	} {
		if err := l.Validate(); err != nil {
			t.Errorf("%s: %v", l, err)
		}
	}
}

// A valid limit fits the slot: the interval holds 128 parts of a unit, the horizon fits 63 bits.
func TestValidLimitFitsASlot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := NewLimit{Rate: anyRate(t), Burst: rapid.Uint64().Draw(t, "burst")}
		if l.Validate() != nil {
			return
		}
		interval := l.Rate.Interval()
		if interval < MinInterval || l.Burst == 0 || l.Burst > MaxBurst ||
			time.Duration(l.Burst)*interval > MaxHorizon || time.Duration(l.Burst)*interval <= 0 {
			t.Fatalf("%s is valid with an interval of %v", l, interval)
		}
	})
}

func TestLimitInWords(t *testing.T) {
	for _, c := range []struct {
		limit         NewLimit
		short, window string
	}{
		{NewLimit{Rate{50, time.Second}, 100}, "50/s per source, burst 100", "at most 150 in any second"},
		{NewLimit{Rate{3, time.Minute}, 3}, "3/min per source, burst 3", "at most 6 in any minute"},
		{NewLimit{Rate{50, 100 * time.Second}, 50}, "50/100s per source, burst 50", "at most 100 in any 100s"},
	} {
		if got := c.limit.String(); got != c.short {
			t.Errorf("got %q, want %q", got, c.short)
		}
		if got := c.limit.WorstWindow(); got != c.window {
			t.Errorf("%s: got %q, want %q", c.limit, got, c.window)
		}
	}
}
