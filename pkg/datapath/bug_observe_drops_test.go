// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/synward/synward/pkg/policy"
)

// A limit that only observes drops nothing, also where the bucket of a newcomer is full.
func TestBugObservingLimitDropsWhenTheTableIsFull(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	observes := aDay(policy.KindNew, policy.PerSource, 1, thatObserves)
	for _, full := range []policy.OnTableFull{policy.TableFullDrop, policy.TableFullPass} {
		t.Run(string(full), func(t *testing.T) {
			l.t = t
			l.rules(nil, func(p *policy.Policy) {
				p.OnTableFull = full
				p.Services = []policy.Service{listening("web", policy.TCP, 0, 65535, observes)}
			})
			l.emptyMeters()
			oneBucket(l)
			l.fullTable()
			l.tables.LimitStates[l.limit(0).Id].AggregateTatNs = monotonicNow() + l.limit(0).AggregateCapacityNs
			for _, h := range bothHooks {
				if v := l.run(h, syn4().Bytes(), nil).verdict; v == isFull.verdict(h) {
					t.Errorf("%s: a limit with over: observe dropped a connection", h)
				}
			}
		})
	}
}
