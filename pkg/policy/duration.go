// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// MaxDuration is the longest time that ParseDuration accepts.
const MaxDuration = 36500 * Day

// ParseDuration reads a length of time above zero: a Go duration (90s, 1h30m), in which d stands for
// days and min for minutes too. Errors wrap ErrInvalid.
func ParseDuration(s string) (time.Duration, error) {
	what := fmt.Sprintf("duration %q", s)
	total := 0.0
	for rest := s; ; {
		part, after, ok := nextPart(rest)
		if !ok {
			return 0, invalid(what, "write it as in 90s, 10m, 12h or 7d")
		}
		total += part
		if rest = after; rest == "" {
			break
		}
	}
	if total > float64(MaxDuration) {
		return 0, invalid(what, "it is too long; use at most %dd", MaxDuration/Day)
	}
	if total = math.Round(total); total == 0 {
		return 0, invalid(what, "it must be above zero")
	}
	return time.Duration(total), nil
}

// nextPart reads one number and unit from the front of s and returns it in nanoseconds, with what is
// left of s.
func nextPart(s string) (ns float64, rest string, ok bool) {
	const digits = "0123456789."
	rest = strings.TrimLeft(s, digits)
	number, err := strconv.ParseFloat(s[:len(s)-len(rest)], 64)
	if err != nil {
		return 0, "", false
	}
	name := rest
	if end := strings.IndexAny(rest, digits); end >= 0 {
		name = rest[:end]
	}
	length, ok := durationUnit(name)
	return number * float64(length), rest[len(name):], ok
}

func durationUnit(name string) (time.Duration, bool) {
	switch name {
	case "ns":
		return time.Nanosecond, true
	case "us", "µs", "μs":
		return time.Microsecond, true
	case "m":
		return time.Minute, true
	}
	for _, u := range units() {
		if u.name == name {
			return u.length, true
		}
	}
	return 0, false
}
