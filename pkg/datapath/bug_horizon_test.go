// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// Long periods and small bursts: what one large buffer, or many bursts, may owe is centuries. A horizon that
// overflowed made debts count as past.
func TestBugHorizonOverflows(t *testing.T) {
	for _, kind := range []policy.Kind{policy.KindBytesIn, policy.KindBytesOut} {
		for _, days := range []time.Duration{1, 30, 365, 3650} {
			l, err := compileLimit(policy.Limit{
				Kind: kind, Per: policy.PerSource, Prefix: policy.PrefixLengths{IPv4: 32, IPv6: 64},
				Rate: policy.Rate{Count: policy.FullPacket, Period: days * policy.Day}, Burst: policy.FullPacket,
			})
			must(t, err)
			if l.Stale <= l.Capacity || l.Stale <= l.Debt || l.Stale > 1<<38 {
				t.Errorf("%s, %d days: stale %d, capacity %d, debt %d units of 2^%d ns", kind, days, l.Stale, l.Capacity, l.Debt, l.UnitShift)
			}
		}
	}
}

// Quotas of a day or a month are what bytes_out is for: none is refused for want of room in a slot, and several bursts
// may be owed.
func TestBytesOutHoldsLongBursts(t *testing.T) {
	for _, c := range []struct {
		count, burst uint64
		period       time.Duration
		bursts       uint64
	}{
		{20_000_000, 20_000_000, time.Minute, 64}, {1_000_000_000, 1_000_000_000, time.Minute, 64}, {50_000_000_000, 50_000_000_000, policy.Day, 32},
		{10_000_000_000, 10_000_000_000, time.Second, 64}, {1 << 40, 1 << 40, 30 * policy.Day, 2}, {policy.FullPacket, policy.FullPacket, time.Second, 64},
	} {
		l, err := compileLimit(policy.Limit{
			Kind: policy.KindBytesOut, Per: policy.PerSource, Prefix: policy.PrefixLengths{IPv4: 32, IPv6: 64},
			Rate: policy.Rate{Count: c.count, Period: c.period}, Burst: c.burst,
		})
		if err != nil {
			t.Errorf("%d in %s: %v", c.count, c.period, err)
			continue
		}
		if got := l.Debt / l.Capacity; got < c.bursts || l.Stale <= l.Debt || l.Stale >= 1<<39 {
			t.Errorf("%d in %s: %d bursts may be owed, want %d; stale %d", c.count, c.period, got, c.bursts, l.Stale)
		}
	}
}
