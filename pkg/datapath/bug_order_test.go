// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// The first limit that refuses names the reason and what is done (pkg/policy/normal.go), whoever was refused before.
func TestBugAnotherSourceDecidesWhichLimitRefuses(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	l.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("web", policy.TCP, 0, 65535,
			aDay(policy.KindNew, policy.PerSource, 1, thatResets), aDay(policy.KindNew, policy.PerDestination, 2))}
	})
	l.emptyMeters()
	one, two, three := syn4().Bytes(), syn4(from("192.0.2.8")).Bytes(), syn4(from("192.0.2.9")).Bytes()
	must(t, pinned(cpus(t)[0], func() error {
		l.run(hookXDP, one, nil)
		l.run(hookXDP, two, nil)
		if l.run(hookXDP, one, nil).verdict != xdpTX {
			t.Fatal("the first limit does not reset: the test shows nothing")
		}
		l.run(hookXDP, three, nil)
		if l.run(hookXDP, one, nil).verdict != xdpTX {
			t.Error("the same SYN is dropped by the second limit now, because another source was")
		}
		return nil
	}))
}

// The clock was set back between two applies: `rollback` still means the policy before.
func TestBugRollbackAfterTheClockWasSetBack(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	must(t, l.Apply(ApplyOptions{Policy: reviewPolicy(1)}))
	key := limiterPolicyTextKey{Generation: uint32(l.live().generation)}
	var piece limiterPolicyPiece
	must(t, l.maps.PolicyTexts.Lookup(key, &piece))
	piece.Applied += uint64(time.Hour / time.Second)
	must(t, l.maps.PolicyTexts.Put(key, piece))
	for _, burst := range []uint64{2, 3} {
		must(t, l.Apply(ApplyOptions{Policy: reviewPolicy(burst)}))
	}
	p, err := l.Rollback(1, "a test")
	must(t, err)
	if got := p.Services[0].Limits[0].Burst; got != 2 {
		t.Errorf("rollback went to burst %d, want 2, the one before", got)
	}
}
