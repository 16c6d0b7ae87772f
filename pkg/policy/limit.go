// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/bits"
	"time"
)

// MaxBurst is the largest burst of a limit.
const MaxBurst = 1 << 30

// MaxHorizon is the longest time that a limit may look back: the time that a whole burst takes to
// drain.
const MaxHorizon = 3650 * Day

// NewLimit is a limit of new connections over time: in any window W at most Burst + W/T are
// admitted, where T is Rate.Interval.
type NewLimit struct {
	Rate  Rate
	Burst uint64
}

// Validate says whether the meters can hold the limit and whether it can ever admit anything.
// Errors wrap ErrInvalid.
func (l NewLimit) Validate() error {
	if err := l.Rate.positive(); err != nil {
		return err
	}
	if uint64(l.Rate.Period)/l.Rate.Count < uint64(MinInterval) {
		return invalid(fmt.Sprintf("rate %q", l.Rate), "it is above what a slot can hold; the highest rate is %d/s",
			time.Second/MinInterval)
	}
	return l.validateBurst()
}

func (l NewLimit) validateBurst() error {
	what := fmt.Sprintf("burst %d", l.Burst)
	if l.Burst == 0 {
		return invalid(what, "it would refuse every new connection; use at least 1")
	}
	if l.Burst > MaxBurst {
		return invalid(what, "it is too large; use at most %d", MaxBurst)
	}
	interval := uint64(l.Rate.Interval())
	if over, horizon := bits.Mul64(l.Burst, interval); over == 0 && horizon <= uint64(MaxHorizon) {
		return nil
	}
	fits := uint64(MaxHorizon) / interval
	if fits == 0 {
		return invalid(fmt.Sprintf("rate %q", l.Rate), "its period is too long; use at most %dd for each connection",
			MaxHorizon/Day)
	}
	return invalid(what, "at %s it takes more than %d days to drain; use at most %d", l.Rate, MaxHorizon/Day, fits)
}

// String is the limit in words, without what it counts: "50/s per source, burst 100".
func (l NewLimit) String() string {
	return fmt.Sprintf("%s per source, burst %d", l.Rate, l.Burst)
}

// WorstWindow says in words how many new connections of one source can be admitted in one period of
// the rate, wherever the window begins.
func (l NewLimit) WorstWindow() string {
	window := formatPeriod(l.Rate.Period)
	for _, u := range units() {
		if u.name == window {
			window = u.word
		}
	}
	return fmt.Sprintf("at most %d in any %s", l.Burst+l.Rate.Count, window)
}
