// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/synward/synward/pkg/policy"
)

// Where answers would leave without their VLAN tag none are sent: `over: reset` drops, and is counted as that.
func TestSilentInterfaceOnlyDrops(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true, silent: true})
	l.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("web", policy.TCP, 0, 65535, aDay(policy.KindNew, policy.PerSource, 1, thatResets))}
	})
	l.specialisedAndGeneral(func() {
		for _, h := range bothHooks {
			l.emptyMeters()
			l.expect(h, syn4().Bytes(), 0, isNew, "first")
			l.expect(h, syn4().Bytes(), 0, isOver, "over, where an answer may not be sent")
		}
	})
	l.expectNoOther()
}
