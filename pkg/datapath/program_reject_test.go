// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/synward/synward/pkg/policy"
)

func countingRejected(per policy.Per, count uint64) func(p *policy.Policy) {
	return func(p *policy.Policy) {
		l := aDay(policy.KindNew, per, count, func(l *policy.Limit) { l.CountRejected = true })
		p.Services = []policy.Service{listening("web", policy.TCP, 0, 65535, l)}
	}
}

// What is refused is charged up to a whole burst and no further, also where the source owes more than that
// already: after its limit was lowered, or by a clock that is behind. Else who hammers is soon so far
// ahead that its level is taken for one that has wrapped, and is admitted.
func TestBugRejectedPastAWholeBurst(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, per := range []policy.Per{policy.PerSource, policy.PerDestination, policy.PerService} {
		l.rules(nil, countingRejected(per, 4))
		l.specialisedAndGeneral(func() {
			for _, more := range []uint64{0, 1, 2, 8} {
				l.tryReject(per, more)
			}
		})
	}
}

// tryReject refuses a SYN whose limit owes a whole burst and some of its connections more.
func (l *programLab) tryReject(per policy.Per, more uint64) {
	l.t.Helper()
	limit := l.limit(0)
	l.emptyMeters()
	tat := &l.tables.LimitStates[limit.Id].TatNs
	owed, now := limit.Capacity+more*limit.Cost/4, monotonicNow()
	*tat = now + owed
	if limit.metered() {
		hash := hashKey(&l.control.Hash, limit, client4.Addr(), server4.Addr())
		tat = &bucketOf(l.tables, limit, hash).Slot[2]
		*tat = hash&slotTag | (now>>limit.UnitShift+owed)&slotTAT
	}
	before := *tat
	for range 100 {
		l.expect(hookXDP, syn4().Bytes(), 0, isOver, "over")
	}
	// As time goes on a whole burst ends a little later.
	if most := before + limit.Cost/100; *tat > max(most, before) || *tat < before && more == 0 {
		l.t.Errorf("per %s, %d connections above a whole burst: %d units more after 100 refusals, T is %d", per, more/4, *tat-before, limit.Cost)
	}
}

// Without count_rejected a refusal writes nothing; with it, who keeps trying owes a whole burst again.
func TestRejectedIsCharged(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, counted := range []bool{false, true} {
		l.rules(nil, countingRejected(policy.PerSource, 4), func(p *policy.Policy) { p.Services[0].Limits[0].CountRejected = counted })
		limit := l.limit(0)
		hash := hashKey(&l.control.Hash, limit, client4.Addr(), netip.Addr{})
		slot := &bucketOf(l.tables, limit, hash).Slot[5]
		now := monotonicNow() >> limit.UnitShift
		half := now + limit.Capacity - limit.Cost/2
		*slot = hash&slotTag | half&slotTAT
		l.expect(hookXDP, syn4().Bytes(), 0, isOver, "over")
		want := half
		if counted {
			want = now + limit.Capacity
		}
		if got := *slot & slotTAT; got < want || got > want+limit.Cost/100 {
			t.Errorf("counted %v: the level ends %d units after now, want %d", counted, got-now, want-now)
		}
	}
}
