// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Day is the longest unit of a rate or duration.
const Day = 24 * time.Hour

// MinInterval is the shortest time between two events of a rate that a slot of the meters can hold.
const MinInterval = 128 * time.Nanosecond

// Rate is so many events a period. Both are above zero in a rate that ParseRate made.
type Rate struct {
	Count  uint64
	Period time.Duration
}

// unit is one way to write a period.
type unit struct {
	name   string
	word   string
	length time.Duration
}

// units are the units of a period, longest first.
func units() []unit {
	return []unit{
		{"d", "day", Day}, {"h", "hour", time.Hour}, {"min", "minute", time.Minute},
		{"s", "second", time.Second}, {"ms", "millisecond", time.Millisecond},
	}
}

// ParseRate reads COUNT/[N]UNIT, as in 50/s, 2k/h and 50/100s. COUNT is a whole number, with k for
// thousands or M for millions; UNIT is ms, s, min, h or d. Errors wrap ErrInvalid.
func ParseRate(s string) (Rate, error) {
	what := fmt.Sprintf("rate %q", s)
	countText, periodText, found := strings.Cut(s, "/")
	if !found {
		return Rate{}, invalid(what, "write COUNT/UNIT, as in 50/s or 3/min")
	}
	count, err := parseCount(countText)
	if errors.Is(err, strconv.ErrRange) {
		return Rate{}, invalid(what, "%s is too large a number", countText)
	}
	if err != nil {
		return Rate{}, invalid(what, "%q is not a whole number (k and M may follow it); write it as in 50/s or 2k/h", countText)
	}
	period, err := parsePeriod(periodText)
	if err != nil {
		return Rate{}, invalid(what, "%v", err)
	}
	rate := Rate{Count: count, Period: period}
	if err := rate.positive(); err != nil {
		return Rate{}, err
	}
	return rate, nil
}

// parseCount reads a whole number with k or M behind it. Errors are those of strconv.
func parseCount(s string) (uint64, error) {
	digits, factor := s, uint64(1)
	switch {
	case strings.HasSuffix(s, "k"):
		digits, factor = s[:len(s)-1], 1_000
	case strings.HasSuffix(s, "M"):
		digits, factor = s[:len(s)-1], 1_000_000
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, err
	}
	if n*factor/factor != n {
		return 0, strconv.ErrRange
	}
	return n * factor, nil
}

// parsePeriod reads [N]UNIT; N is 1 if it is left out.
func parsePeriod(s string) (time.Duration, error) {
	name := strings.TrimLeft(s, "0123456789")
	for _, u := range units() {
		if u.name != name {
			continue
		}
		digits := strings.TrimSuffix(s, name)
		if digits == "" {
			return u.length, nil
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n > int64(MaxHorizon/u.length) {
			return 0, fmt.Errorf("a period of %s is too long (at most %dd)", s, MaxHorizon/Day)
		}
		return time.Duration(n) * u.length, nil
	}
	if name == "m" {
		return 0, errors.New("there is no unit m: write min for minutes, ms for milliseconds")
	}
	return 0, fmt.Errorf("there is no unit %q: use ms, s, min, h or d", name)
}

// positive refuses a rate that would admit nothing or means nothing.
func (r Rate) positive() error {
	what := fmt.Sprintf("rate %q", r)
	if r.Count == 0 {
		return invalid(what, "it would refuse every new connection; use at least 1, or a block list entry")
	}
	if r.Period <= 0 {
		return invalid(what, "the period must be above zero, as in %d/s", r.Count)
	}
	return nil
}

// Interval is the time between two events at this rate, rounded up to nanoseconds so that rounding
// never admits more. A rate without a count has none: it is 0.
func (r Rate) Interval() time.Duration {
	if r.Count == 0 || r.Period <= 0 {
		return 0
	}
	period := uint64(r.Period)
	interval := period / r.Count
	if period%r.Count != 0 {
		interval++
	}
	return time.Duration(interval)
}

// String is the form that a person would type: the longest unit that fits, k and M where they are
// exact. ParseRate makes the same rate of it, if the period is a whole number of milliseconds.
func (r Rate) String() string {
	return formatCount(r.Count) + "/" + formatPeriod(r.Period)
}

func formatCount(n uint64) string {
	switch {
	case n != 0 && n%1_000_000 == 0:
		return strconv.FormatUint(n/1_000_000, 10) + "M"
	case n != 0 && n%1_000 == 0:
		return strconv.FormatUint(n/1_000, 10) + "k"
	}
	return strconv.FormatUint(n, 10)
}

func formatPeriod(period time.Duration) string {
	for _, u := range units() {
		if n := period / u.length; n > 0 && period%u.length == 0 {
			if n == 1 {
				return u.name
			}
			return strconv.FormatInt(int64(n), 10) + u.name
		}
	}
	return period.String()
}
