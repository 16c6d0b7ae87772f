// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"slices"

	"pgregory.net/rapid"

	"github.com/synward/synward/pkg/policy"
)

// Words are what a policy may say of its limits. The rest of a policy file is always drawn from.
type Words struct {
	Kinds []policy.Kind
	Overs []policy.Over
	// Exempt and Bans: limits may exempt sources, and ban them.
	Exempt, Bans bool
}

// All is all that a policy file may say.
func All() Words {
	return Words{
		Kinds: []policy.Kind{
			policy.KindNew, policy.KindConcurrent, policy.KindPackets, policy.KindBytesIn, policy.KindBytesOut,
		},
		Overs:  []policy.Over{policy.OverDrop, policy.OverReset, policy.OverChallenge, policy.OverObserve},
		Exempt: true, Bans: true,
	}
}

// Policy draws a policy that is valid and not normal: whatever would make no sense is left out of what was drawn.
func (w Words) Policy(t *rapid.T) *policy.Policy {
	p := &policy.Policy{
		Mode: rapid.SampledFrom([]policy.Mode{policy.Enforce, policy.Observe, ""}).Draw(t, "mode"),
		OnTableFull: rapid.SampledFrom([]policy.OnTableFull{
			policy.TableFullChallenge, policy.TableFullPass, policy.TableFullDrop, "",
		}).Draw(t, "on table full"),
		StrictParsing: rapid.Bool().Draw(t, "strict parsing"),
	}
	if rapid.Bool().Draw(t, "has source") {
		p.Source = lengths(t)
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.Custom(name), 0, 3, rapid.ID).Draw(t, "sets") {
		p.Sets = append(p.Sets, policy.Set{Name: name, Prefixes: Prefixes(t)})
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.Custom(name), 0, 4, rapid.ID).Draw(t, "services") {
		if s := w.service(t, p, name); len(s.Listen) > 0 {
			p.Services = append(p.Services, s)
		}
	}
	for range rapid.IntRange(0, 2).Draw(t, "global limits") {
		p.Global.Limits = append(p.Global.Limits, w.limit(t, p.Sets))
		if p.Validate() != nil {
			p.Global.Limits = p.Global.Limits[:len(p.Global.Limits)-1]
		}
	}
	p.Allow, p.Block = Members(t, p.Sets), Members(t, p.Sets)
	return p
}

// service draws a service that the policy has room for, perhaps without an address.
func (w Words) service(t *rapid.T, p *policy.Policy, name string) policy.Service {
	s := policy.Service{Name: name, Allow: Members(t, p.Sets)}
	for _, l := range rapid.SliceOfN(rapid.Custom(listen), 1, 4).Draw(t, "listen") {
		s.Listen = append(s.Listen, l)
		if with(p, s).Validate() != nil {
			s.Listen = s.Listen[:len(s.Listen)-1]
		}
	}
	for range rapid.IntRange(0, 4).Draw(t, "limits") {
		s.Limits = append(s.Limits, w.limit(t, p.Sets))
		if with(p, s).Validate() != nil {
			s.Limits = s.Limits[:len(s.Limits)-1]
		}
	}
	return s
}

func with(p *policy.Policy, s policy.Service) *policy.Policy {
	c := *p
	c.Services = append(slices.Clone(p.Services), s)
	return &c
}
