// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseRate(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Rate
		out  string
	}{
		{"50/s", Rate{50, time.Second}, "50/s"},
		{"50/1s", Rate{50, time.Second}, "50/s"},
		{"3/min", Rate{3, time.Minute}, "3/min"},
		{"50/100s", Rate{50, 100 * time.Second}, "50/100s"},
		{"2k/h", Rate{2000, time.Hour}, "2k/h"},
		{"1M/d", Rate{1_000_000, Day}, "1M/d"},
		{"1000k/d", Rate{1_000_000, Day}, "1M/d"},
		{"1500/s", Rate{1500, time.Second}, "1500/s"},
		{"5/250ms", Rate{5, 250 * time.Millisecond}, "5/250ms"},
		{"5/1000ms", Rate{5, time.Second}, "5/s"},
		{"5/60s", Rate{5, time.Minute}, "5/min"},
		{"5/24h", Rate{5, Day}, "5/d"},
		{"5/90min", Rate{5, 90 * time.Minute}, "5/90min"},
	} {
		got, err := ParseRate(c.in)
		if err != nil || got != c.want {
			t.Errorf("ParseRate(%q) = %v, %v, want %v", c.in, got, err, c.want)
		}
		if got.String() != c.out {
			t.Errorf("ParseRate(%q) prints as %s, want %s", c.in, got, c.out)
		}
	}
}

func TestParseRateErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                         `invalid rate "": write COUNT/UNIT, as in 50/s or 3/min`,
		"50":                       `invalid rate "50": write COUNT/UNIT, as in 50/s or 3/min`,
		"/s":                       `invalid rate "/s": "" is not a whole number (k and M may follow it); write it as in 50/s or 2k/h`,
		"fast/s":                   `invalid rate "fast/s": "fast" is not a whole number (k and M may follow it); write it as in 50/s or 2k/h`,
		"-1/s":                     `invalid rate "-1/s": "-1" is not a whole number (k and M may follow it); write it as in 50/s or 2k/h`,
		"1.5/s":                    `invalid rate "1.5/s": "1.5" is not a whole number (k and M may follow it); write it as in 50/s or 2k/h`,
		"50K/s":                    `invalid rate "50K/s": "50K" is not a whole number (k and M may follow it); write it as in 50/s or 2k/h`,
		"50 /s":                    `invalid rate "50 /s": "50 " is not a whole number (k and M may follow it); write it as in 50/s or 2k/h`,
		"99999999999999999999/s":   `invalid rate "99999999999999999999/s": 99999999999999999999 is too large a number`,
		"18446744073709552k/s":     `invalid rate "18446744073709552k/s": 18446744073709552k is too large a number`,
		"50/":                      `invalid rate "50/": there is no unit "": use ms, s, min, h or d`,
		"50/m":                     `invalid rate "50/m": there is no unit m: write min for minutes, ms for milliseconds`,
		"50/week":                  `invalid rate "50/week": there is no unit "week": use ms, s, min, h or d`,
		"50/s/s":                   `invalid rate "50/s/s": there is no unit "s/s": use ms, s, min, h or d`,
		"50/1s1":                   `invalid rate "50/1s1": there is no unit "s1": use ms, s, min, h or d`,
		"50/1.5s":                  `invalid rate "50/1.5s": there is no unit ".5s": use ms, s, min, h or d`,
		"50/99999999999999999999d": `invalid rate "50/99999999999999999999d": a period of 99999999999999999999d is too long (at most 3650d)`,
		"50/3651d":                 `invalid rate "50/3651d": a period of 3651d is too long (at most 3650d)`,
		"0/s":                      `invalid rate "0/s": it would refuse every new connection; use at least 1, or a block list entry`,
		"0k/s":                     `invalid rate "0/s": it would refuse every new connection; use at least 1, or a block list entry`,
		"5/0s":                     `invalid rate "5/0s": the period must be above zero, as in 5/s`,
	} {
		_, err := ParseRate(in)
		checkInvalid(t, "ParseRate", in, err, want)
	}
}

func checkInvalid(t *testing.T, what, in string, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("%s(%q):\n got %v\nwant %s", what, in, err, want)
	}
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("%s(%q): %v does not wrap ErrInvalid", what, in, err)
	}
}

// anyRate draws a rate with a period of whole milliseconds, as ParseRate makes them.
func anyRate(t *rapid.T) Rate {
	u := rapid.SampledFrom(units()).Draw(t, "unit")
	factor := rapid.SampledFrom([]uint64{1, 1000, 1_000_000}).Draw(t, "factor")
	return Rate{
		Count:  rapid.Uint64Range(1, 1<<40).Draw(t, "count") * factor,
		Period: u.length * time.Duration(rapid.Int64Range(1, 3650).Draw(t, "n")),
	}
}

func TestRateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyRate(t)
		got, err := ParseRate(want.String())
		if err != nil || got != want {
			t.Fatalf("ParseRate(%q) = %#v, %v, want %#v", want, got, err, want)
		}
	})
}

func TestIntervalNeverAdmitsMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRate(t)
		got := uint64(r.Interval())
		exact := uint64(r.Period) / r.Count
		if got < exact || got > exact+1 || (got == exact) != (uint64(r.Period)%r.Count == 0) {
			t.Fatalf("%s has the interval %d ns, want %d rounded up", r, got, exact)
		}
	})
	if got := (Rate{}).Interval(); got != 0 {
		t.Errorf("the zero rate has the interval %v", got)
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"50/s", "2k/h", "1M/100ms", "0/s", "50/m", "9/3650d", "/", "18446744073709551615/s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rate, err := ParseRate(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("ParseRate(%q): %v does not wrap ErrInvalid", s, err)
			}
			return
		}
		again, err := ParseRate(rate.String())
		if err != nil || again != rate {
			t.Errorf("ParseRate(%q) = %#v prints as %s, which reads as %#v, %v", s, rate, rate, again, err)
		}
		if len(rate.String()) > len(s) {
			t.Errorf("%q prints longer, as %s", s, rate)
		}
	})
}
