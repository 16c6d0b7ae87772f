// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/synward/synward/pkg/policy"
)

var isExempt = passed(limiterReasonREASON_EXEMPT)

// Who completed a handshake in the last ten minutes passes a limit of the service that says so, and none of his own.
func TestExemptIsWhoConnectedLately(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	ofService := aDay(policy.KindNew, policy.PerService, 1, func(*policy.Limit) {})
	own := aDay(policy.KindNew, policy.PerSource, 2, func(*policy.Limit) {})
	l.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("web", policy.TCP, server4.Port(), server4.Port(), ofService, own)}
	})
	// By hand: the lab has no place for the hooks that a policy asks for.
	l.limit(0).Flags |= uint32(limiterLimitFlagLIMIT_EXEMPTS)
	l.head().Features |= uint32(limiterFeatureFEATURE_EXEMPT)
	verify := func(ago time.Duration) {
		must(t, l.maps.Verified.Put(dataAddr(l.sourceOf(client4.Addr()).Addr()), monotonicNow()-uint64(ago)))
	}
	mustBe := func(want string) {
		t.Helper()
		v, err := l.CheckAt(client4.Addr(), server4)
		if err != nil || v.Reason != want {
			t.Errorf("check says %+v (%v), want %s", v, err, want)
		}
	}
	for _, h := range bothHooks {
		l.emptyMeters()
		_ = l.maps.Verified.Delete(dataAddr(l.sourceOf(client4.Addr()).Addr()))
		l.expect(h, syn4(from("198.51.100.99")).Bytes(), 0, isNew, "the one that there is room for")
		l.expect(h, syn4().Bytes(), 0, isOver, "who is not known")
		mustBe("over_new")
		verify(10*time.Minute + time.Second)
		l.expect(h, syn4().Bytes(), 0, isOver, "who connected too long ago")
		verify(9 * time.Minute)
		mustBe("exempt")
		l.expect(h, syn4().Bytes(), 0, isExempt, "who connected of late")
		l.expect(h, syn4().Bytes(), 0, isExempt, "and once more")
		l.expect(h, syn4().Bytes(), 0, isOver, "who is over his own limit")
		mustBe("over_new")
		l.expect(h, syn4(from("198.51.100.98")).Bytes(), 0, isOver, "somebody else")
	}
}
