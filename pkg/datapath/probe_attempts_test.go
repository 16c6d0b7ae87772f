// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// Where SYNs in his name have used up somebody's limit, his own attempts are refused, and are no strikes before they alone
// are over it: not those that the kernel sent twice either.
func TestForgedSYNsMakeNoAttemptAStrike(t *testing.T) {
	const burst = 5
	for _, over := range []policy.Over{policy.OverDrop, policy.OverReset} {
		for _, per := range []policy.Per{policy.PerSource, policy.PerSourceDestination} {
			limit := probing(over, burst, policy.Ban{After: 1, For: time.Hour})
			limit.Per = per
			c := newProbeProgram(t, limit)
			for _, h := range bothHooks {
				for _, p := range []tg.Packet{syn4(), syn6()} {
					c.emptyMeters()
					c.clearBans()
					before := c.tally()
					o := c.useUp(h, p, burst)
					for range burst {
						ack := o.probed()
						c.refusesAnswer(h, ack, "an attempt")
						c.refusesAnswer(h, ack, "the same again")
					}
					c.wantTally(before, 0, 0, "as many as the limit allows")
					o.strikeByProbe("one more")
					c.wantTally(before, 1, 1, "one more")
				}
			}
		}
	}
}
