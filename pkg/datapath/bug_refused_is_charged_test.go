// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// A flood that a full table refuses, its aggregate being used up, uses up no other limit: what is refused charges
// nobody, and that is no race here.
func TestBugFloodThatAFullTableRefusesUsesUpTheServicesLimit(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	l.rules(nil, func(p *policy.Policy) {
		p.OnTableFull = policy.TableFullPass
		p.Services = []policy.Service{listening("web", policy.TCP, 0, 65535,
			aDay(policy.KindNew, policy.PerService, 100), aDay(policy.KindNew, policy.PerSource, 1))}
	})
	l.emptyMeters()
	perSource := l.limit(1)
	perSource.BucketMask = 0
	now := monotonicNow() >> perSource.UnitShift
	bucket := &l.tables.Meters[perSource.FirstBucket]
	for way := range bucket.Slot {
		bucket.Slot[way] = uint64(way+1)*slotBorrowed<<1 | (now+perSource.Capacity)&slotTAT
	}
	l.tables.LimitStates[perSource.Id].AggregateTatNs = monotonicNow() + perSource.AggregateCapacityNs
	before := l.tables.LimitStates[l.limit(0).Id].TatNs
	for n := range uint16(200) {
		frame := syn4(func(p *tg.Packet) { p.SrcPort = 1000 + n }).Bytes()
		if l.run(hookXDP, frame, nil).verdict != xdpDrop {
			t.Fatalf("SYN %d passed: the test shows nothing", n)
		}
	}
	if after := l.tables.LimitStates[l.limit(0).Id].TatNs; after != before {
		t.Errorf("200 SYNs that were refused by the full table charged the limit of the service: TAT %d, was %d", after, before)
	}
}
