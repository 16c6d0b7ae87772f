// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"
	"time"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// An answer strikes nobody whom its service has come to allow since the probe, nor whom the limit that asked is not for
// any more. Under the policy that asked it does.
func TestProbeOfWhomItsLimitIsNotFor(t *testing.T) {
	limit := probing(policy.OverDrop, 1, policy.Ban{After: 1, For: time.Hour})
	limit.From, limit.Except = policy.Members{Sets: []string{"customers"}}, policy.Members{Sets: []string{"relays"}}
	c := newProbeProgram(t, probing(policy.OverDrop, 1, *limit.Ban))
	strikers := []netip.Prefix{strikerOf(syn4().Src), strikerOf(syn6().Src)}
	nobody := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
	with := func(customers, relays, office []netip.Prefix) {
		c.rules(nil, func(p *policy.Policy) {
			p.Sets = []policy.Set{{Name: "customers", Prefixes: customers}, {Name: "office", Prefixes: office}, {Name: "relays", Prefixes: relays}}
			web := listening("web", policy.TCP, server4.Port(), server4.Port(), limit)
			web.Allow = policy.Members{Sets: []string{"office"}}
			p.Services = []policy.Service{web}
		})
	}
	for _, h := range bothHooks {
		for _, p := range []tg.Packet{syn4(), syn6()} {
			with(strikers, nobody, nobody)
			c.emptyMeters()
			c.clearBans()
			before := c.tally()
			right := c.provoke(h, p, 1).probed()
			for name, change := range map[string]func(){
				"a service allows him":    func() { with(strikers, nobody, strikers) },
				"the limit is for others": func() { with(nobody, nobody, nobody) },
				"the limit excepts him":   func() { with(strikers, strikers, nobody) },
			} {
				change()
				c.ends(h, right, isProven, name)
				c.wantTally(before, 0, 0, name)
			}
			with(strikers, nobody, nobody)
			c.refusesAnswer(h, right, "the policy that asked")
			c.wantTally(before, 1, 1, "the policy that asked")
		}
	}
}
