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
