// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseByteRate(t *testing.T) {
	for in, want := range map[string]struct {
		rate Rate
		out  string
	}{
		"20MB/60s":  {Rate{20_000_000, time.Minute}, "20MB/min"},
		"5MiB/s":    {Rate{5 << 20, time.Second}, "5MiB/s"},
		"2000/s":    {Rate{2000, time.Second}, "2kB/s"},
		"1514B/s":   {Rate{1514, time.Second}, "1514/s"},
		"1024kB/h":  {Rate{1_024_000, time.Hour}, "1024kB/h"},
		"3GiB/d":    {Rate{3 << 30, Day}, "3GiB/d"},
		"1GB/100ms": {Rate{1_000_000_000, 100 * time.Millisecond}, "1GB/100ms"},
	} {
		got, err := ParseByteRate(in)
		if err != nil || got != want.rate || FormatByteRate(got) != want.out {
			t.Errorf("ParseByteRate(%q) = %v, %v, %s, want %v", in, got, err, FormatByteRate(got), want)
		}
	}
	for in, want := range map[string]string{
		"":                 `invalid rate "": write BYTES/UNIT, as in 20MB/60s or 5MiB/s`,
		"20MB":             `invalid rate "20MB": write BYTES/UNIT, as in 20MB/60s or 5MiB/s`,
		"20M/s":            `invalid rate "20M/s": write a whole number of B, kB, MB, GB, KiB, MiB or GiB, as in 20MB`,
		"MB/s":             `invalid rate "MB/s": write a whole number of B, kB, MB, GB, KiB, MiB or GiB, as in 20MB`,
		"20MB/m":           `invalid rate "20MB/m": there is no unit m: write min for minutes, ms for milliseconds`,
		"0MB/s":            `invalid rate "0MB/s": it would refuse every packet; use at least 1kB, or a block list entry`,
		"1MB/0s":           `invalid rate "1MB/0s": the period must be above zero, as in 1MB/s`,
		"99999999999GiB/s": `invalid rate "99999999999GiB/s": 99999999999GiB is too large a number`,
	} {
		_, err := ParseByteRate(in)
		checkInvalid(t, "ParseByteRate", in, err, want)
	}
	_, err := ParseBytes("1.5MB")
	checkInvalid(t, "ParseBytes", "1.5MB", err,
		`invalid number of bytes "1.5MB": write a whole number of B, kB, MB, GB, KiB, MiB or GiB, as in 20MB`)
}

func TestBytesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.Uint64Range(0, 1<<20).Draw(t, "n") * rapid.SampledFrom(byteUnits()).Draw(t, "unit").size
		if got, err := ParseBytes(FormatBytes(want)); err != nil || got != want {
			t.Fatalf("ParseBytes(%q) = %d, %v, want %d", FormatBytes(want), got, err, want)
		}
	})
}
