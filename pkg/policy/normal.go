// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
)

// Normalize puts a policy into its normal form: sets, their names in lists, and listen addresses sorted;
// prefixes sorted and masked, none inside another; what is empty nil; what was left out filled in by its
// default. The order of services and of limits stays: the first limit that refuses names the reason.
func (p *Policy) Normalize() {
	p.fillHead()
	slices.SortFunc(p.Sets, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	for i := range p.Sets {
		p.Sets[i].Prefixes = normalPrefixes(p.Sets[i].Prefixes)
	}
	for i := range p.Services {
		s := &p.Services[i]
		slices.SortFunc(s.Listen, compareListen)
		s.Allow = normalMembers(s.Allow)
		p.fillLimits(s.Limits)
		normalizeLimits(s.Limits)
		s.Listen, s.Limits = nilIfEmpty(s.Listen), nilIfEmpty(s.Limits)
	}
	p.fillLimits(p.Global.Limits)
	normalizeLimits(p.Global.Limits)
	p.Allow, p.Block = normalMembers(p.Allow), normalMembers(p.Block)
	p.Sets, p.Services, p.Global.Limits = nilIfEmpty(p.Sets), nilIfEmpty(p.Services), nilIfEmpty(p.Global.Limits)
}

func nilIfEmpty[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}

func defaultSource() PrefixLengths { return PrefixLengths{IPv4: 32, IPv6: 64} }

// or fills in what is zero.
func (l PrefixLengths) or(by PrefixLengths) PrefixLengths {
	return PrefixLengths{IPv4: cmp.Or(l.IPv4, by.IPv4), IPv6: cmp.Or(l.IPv6, by.IPv6)}
}

// fillHead fills in the defaults outside of services.
func (p *Policy) fillHead() {
	p.Mode = cmp.Or(p.Mode, Enforce)
	p.OnTableFull = cmp.Or(p.OnTableFull, TableFullChallenge)
	p.Source = p.Source.or(defaultSource())
}

// fillLimits fills in the defaults of limits.
func (p *Policy) fillLimits(limits []Limit) {
	for i := range limits {
		l := &limits[i]
		l.Over = cmp.Or(l.Over, OverDrop)
		l.Prefix = l.Prefix.or(p.defaultPrefix(l.Per))
		if l.Kind.metered() {
			l.Burst = cmp.Or(l.Burst, l.defaultBurst())
		}
		if l.Ban != nil {
			ban := l.Ban.filled(p.Source)
			l.Ban = &ban
		}
	}
}

func normalizeLimits(limits []Limit) {
	for i := range limits {
		limits[i].From, limits[i].Except = normalMembers(limits[i].From), normalMembers(limits[i].Except)
	}
}

// defaultPrefix is how much of an address makes one count where a limit does not say.
func (p *Policy) defaultPrefix(per Per) PrefixLengths {
	switch per {
	case PerDestination:
		return wholeAddress()
	case PerService:
		return PrefixLengths{}
	}
	return p.Source
}

func (b Ban) filled(source PrefixLengths) Ban {
	b.Growth = cmp.Or(b.Growth, defaultGrowth)
	b.Scope = cmp.Or(b.Scope, BanGlobal)
	b.Prefix = b.Prefix.or(source)
	if b.Growth == 1 {
		b.Max = b.For
	}
	b.Max = cmp.Or(b.Max, max(defaultMaxBan, b.For))
	return b
}

// A ban doubles with each repeat, up to a day, where it does not say.
const (
	defaultGrowth = 2
	defaultMaxBan = Day
)

// Clone returns a copy that shares nothing with p.
func (p *Policy) Clone() *Policy {
	c := *p
	c.Sets = slices.Clone(p.Sets)
	for i, s := range c.Sets {
		c.Sets[i].Prefixes = slices.Clone(s.Prefixes)
	}
	c.Services = slices.Clone(p.Services)
	for i, s := range c.Services {
		c.Services[i].Listen = slices.Clone(s.Listen)
		c.Services[i].Allow = cloneMembers(s.Allow)
		c.Services[i].Limits = cloneLimits(s.Limits)
	}
	c.Global.Limits = cloneLimits(p.Global.Limits)
	c.Allow, c.Block = cloneMembers(p.Allow), cloneMembers(p.Block)
	return &c
}

func cloneMembers(m Members) Members {
	return Members{Sets: slices.Clone(m.Sets), Prefixes: slices.Clone(m.Prefixes)}
}

func cloneLimits(limits []Limit) []Limit {
	limits = slices.Clone(limits)
	for i, l := range limits {
		limits[i].From, limits[i].Except = cloneMembers(l.From), cloneMembers(l.Except)
		if l.Ban != nil {
			ban := *l.Ban
			limits[i].Ban = &ban
		}
	}
	return limits
}

// Equal says whether two policies mean the same: whether they have one normal form but for the order of
// their services.
func (p *Policy) Equal(q *Policy) bool {
	return reflect.DeepEqual(p.canonical(), q.canonical())
}

// canonical is a normal copy with its services in the order of their names.
func (p *Policy) canonical() *Policy {
	c := p.Clone()
	c.Normalize()
	slices.SortStableFunc(c.Services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	return c
}

// limitsEqual compares limits of normal policies.
func limitsEqual(a, b Limit) bool { return reflect.DeepEqual(a, b) }
