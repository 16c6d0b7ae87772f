// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "10m": 10 * time.Minute, "10min": 10 * time.Minute, "1h30m": 90 * time.Minute,
		"7d": 7 * Day, "1d12h": 36 * time.Hour, "0.5d": 12 * time.Hour, "1.1s": 1100 * time.Millisecond,
		"250ms": 250 * time.Millisecond, "36500d": MaxDuration,
	} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
}

func TestParseDurationErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                        `invalid duration "": write it as in 90s, 10m, 12h or 7d`,
		"10":                      `invalid duration "10": write it as in 90s, 10m, 12h or 7d`,
		"m":                       `invalid duration "m": write it as in 90s, 10m, 12h or 7d`,
		"-5m":                     `invalid duration "-5m": write it as in 90s, 10m, 12h or 7d`,
		"1h-5m":                   `invalid duration "1h-5m": write it as in 90s, 10m, 12h or 7d`,
		"1.2.3s":                  `invalid duration "1.2.3s": write it as in 90s, 10m, 12h or 7d`,
		"5 min":                   `invalid duration "5 min": write it as in 90s, 10m, 12h or 7d`,
		"forever":                 `invalid duration "forever": write it as in 90s, 10m, 12h or 7d`,
		"0s":                      `invalid duration "0s": it must be above zero`,
		"0.1ns":                   `invalid duration "0.1ns": it must be above zero`,
		"36501d":                  `invalid duration "36501d": it is too long; use at most 36500d`,
		"9999999999999999999999d": `invalid duration "9999999999999999999999d": it is too long; use at most 36500d`,
	} {
		_, err := ParseDuration(in)
		checkInvalid(t, "ParseDuration", in, err, want)
	}
}

// Up to three months, where a float64 holds every nanosecond, the result is that of the standard library.
func TestParseDurationIsThatOfGo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := time.Duration(rapid.Int64Range(1, int64(90*Day)).Draw(t, "d"))
		if got, err := ParseDuration(want.String()); err != nil || got != want {
			t.Fatalf("ParseDuration(%q) = %v, %v", want, got, err)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"10m", "1d12h", "0.5h", "1..s", "9e9s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseDuration(%q): %v does not wrap ErrInvalid", s, err)
		}
		if err == nil && (d <= 0 || d > MaxDuration) {
			t.Errorf("ParseDuration(%q) = %v", s, d)
		}
	})
}
