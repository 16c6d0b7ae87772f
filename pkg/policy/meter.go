// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/big"
	"time"
)

// Meter is one count of a limit with a rate, without any rounding: what the data path's meters are held
// against. Times are since some moment at which it was empty.
type Meter struct {
	// unit is the time of one event in nanoseconds, full that of a whole burst.
	unit, full    *big.Rat
	tat           *big.Rat
	countRejected bool
}

// NewMeter makes an empty meter of the limit. A limit of KindConcurrent has none: nil.
func (l Limit) NewMeter() *Meter {
	if !l.Kind.metered() {
		return nil
	}
	unit := new(big.Rat).SetInt64(int64(l.Interval()))
	if refill := l.Refill(); l.Kind.bytes() {
		unit.SetFrac(big.NewInt(int64(refill.Period)), new(big.Int).SetUint64(refill.Count))
	}
	return &Meter{unit: unit, full: times(unit, l.Burst), tat: new(big.Rat), countRejected: l.CountRejected}
}

func times(unit *big.Rat, n uint64) *big.Rat {
	count := new(big.Rat).SetInt(new(big.Int).SetUint64(n))
	return count.Mul(count, unit)
}

// Admit charges one connection or packet, or so many bytes, if they are under the limit. If not, it charges
// nothing, or with count_rejected up to a whole burst.
func (m *Meter) Admit(now time.Duration, n uint64) bool {
	if m.Look(now, n) {
		m.Charge(now, n)
		return true
	}
	if m.countRejected {
		m.Charge(now, n)
	}
	return false
}

// Look says whether Admit would admit, and changes nothing: a packet is charged only if all limits admit it.
func (m *Meter) Look(now time.Duration, n uint64) bool {
	return m.after(now, n).Cmp(m.full) <= 0
}

// Charge adds to the level, up to a whole burst.
func (m *Meter) Charge(now time.Duration, n uint64) {
	level := m.after(now, n)
	if level.Cmp(m.full) > 0 {
		level.Set(m.full)
	}
	m.tat = level.Add(level, nanoseconds(now))
}

// after is the level once n more are charged.
func (m *Meter) after(now time.Duration, n uint64) *big.Rat {
	level := new(big.Rat).Sub(m.tat, nanoseconds(now))
	if level.Sign() < 0 {
		level.SetInt64(0)
	}
	return level.Add(level, times(m.unit, n))
}

func nanoseconds(d time.Duration) *big.Rat { return new(big.Rat).SetInt64(int64(d)) }
