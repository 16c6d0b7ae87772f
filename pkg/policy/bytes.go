// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// byteUnit is one way to write a number of bytes.
type byteUnit struct {
	name string
	size uint64
}

// byteUnits are the units of bytes, largest first.
func byteUnits() []byteUnit {
	return []byteUnit{
		{"GiB", 1 << 30}, {"GB", 1e9}, {"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"kB", 1e3}, {"B", 1},
	}
}

// ParseBytes reads a whole number of bytes, as in 1514, 64KiB or 20MB. Errors wrap ErrInvalid.
func ParseBytes(s string) (uint64, error) {
	n, err := parseBytes(s)
	if err != nil {
		return 0, invalid(fmt.Sprintf("number of bytes %q", s), "%v", err)
	}
	return n, nil
}

func parseBytes(s string) (uint64, error) {
	name := strings.TrimLeft(s, "0123456789")
	digits := s[:len(s)-len(name)]
	size := uint64(0)
	for _, u := range byteUnits() {
		if u.name == name || name == "" {
			size = u.size
		}
	}
	if digits == "" || size == 0 {
		return 0, errors.New("write a whole number of B, kB, MB, GB, KiB, MiB or GiB, as in 20MB")
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxUint64/size {
		return 0, fmt.Errorf("%s is too large a number", s)
	}
	return n * size, nil
}

// FormatBytes is the shortest whole number that ParseBytes reads back: 20MB, 64KiB, 1514.
func FormatBytes(n uint64) string {
	best := strconv.FormatUint(n, 10)
	for _, u := range byteUnits() {
		if n == 0 || u.size == 1 || n%u.size != 0 {
			continue
		}
		if s := strconv.FormatUint(n/u.size, 10) + u.name; len(s) < len(best) {
			best = s
		}
	}
	return best
}

// ParseByteRate reads BYTES/[N]UNIT, as in 20MB/60s or 5MiB/s. Bytes without a unit are bytes.
// Errors wrap ErrInvalid.
func ParseByteRate(s string) (Rate, error) {
	what := fmt.Sprintf("rate %q", s)
	bytesText, periodText, found := strings.Cut(s, "/")
	if !found {
		return Rate{}, invalid(what, "write BYTES/UNIT, as in 20MB/60s or 5MiB/s")
	}
	count, err := parseBytes(bytesText)
	if err != nil {
		return Rate{}, invalid(what, "%v", err)
	}
	period, err := parsePeriod(periodText)
	if err != nil {
		return Rate{}, invalid(what, "%v", err)
	}
	if count == 0 {
		return Rate{}, invalid(what, "it would refuse every packet; use at least 1kB, or a block list entry")
	}
	if period == 0 {
		return Rate{}, invalid(what, "the period must be above zero, as in %s/s", bytesText)
	}
	return Rate{Count: count, Period: period}, nil
}

// FormatByteRate is the form that ParseByteRate reads back.
func FormatByteRate(r Rate) string {
	return FormatBytes(r.Count) + "/" + formatPeriod(r.Period)
}
