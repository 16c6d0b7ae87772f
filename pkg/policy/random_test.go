// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/synward/synward/pkg/internal/policygen"
	"github.com/synward/synward/pkg/policy"
)

// A policy that is written out is read as the same policy, and applying it again changes nothing. The policies
// that are drawn say all that a policy can say.
func TestRandomPoliciesRoundTrip(t *testing.T) {
	drawn := map[string]int{}
	note := func(words ...any) {
		for _, w := range words {
			drawn[policy.TypedWord(w)]++
		}
	}
	for range 10 {
		rapid.Check(t, func(t *rapid.T) {
			p := policygen.All().Policy(t)
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
			policy.CheckRoundTrip(t, p)
			note(p.Mode, p.OnTableFull)
			for _, s := range p.Services {
				for _, l := range s.Limits {
					note(l.Kind, l.Per, l.Over)
					if l.Ban != nil {
						note(l.Ban.Scope)
					}
				}
			}
		})
	}
	for _, word := range policy.Vocabulary() {
		if drawn[word] == 0 { // the rarest is drawn some twenty times
			t.Errorf("%s was never drawn in 1000 policies", word)
		}
	}
}

func TestSchemaAcceptsRandomPolicies(t *testing.T) {
	check := policy.SchemaCheck(t)
	rapid.Check(t, func(t *rapid.T) {
		p := policygen.All().Policy(t)
		if err := check(t, p.YAML()); err != nil {
			t.Fatalf("%v\n%s", err, p.YAML())
		}
	})
}

// A difference is empty if and only if the policies mean the same, and a policy made equal by it has none.
func TestRandomDifferences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, q := policygen.All().Policy(t), policygen.All().Policy(t)
		if rapid.Bool().Draw(t, "near") {
			q = nearby(t, p)
		}
		forth, back := policy.Diff(p, q), policy.Diff(q, p)
		if equal := p.Equal(q); equal != (len(forth) == 0) || equal != (len(back) == 0) || equal != q.Equal(p) {
			t.Fatalf("equal: %v, differences: %v\n%s\n%s", equal, forth, p.YAML(), q.YAML())
		}
		for _, c := range forth {
			if c.Op == policy.Changed && c.Old == c.New {
				t.Fatalf("no difference: %s", c)
			}
		}
		if d := policy.Diff(p, p.Clone()); len(d) != 0 {
			t.Fatalf("a copy differs: %v", d)
		}
	})
}

// nearby changes one thing of a policy, or nothing.
func nearby(t *rapid.T, p *policy.Policy) *policy.Policy {
	q := p.Clone()
	q.Normalize()
	if len(q.Services) == 0 || len(q.Services[0].Limits) == 0 {
		return q
	}
	l := &q.Services[0].Limits[0]
	switch rapid.IntRange(0, 7).Draw(t, "change") {
	case 0:
		l.Rate.Count++
	case 1:
		l.Burst++
	case 2:
		l.From = policygen.Members(t, q.Sets)
	case 3:
		l.Except = policygen.Members(t, q.Sets)
	case 4:
		l.Ban = policygen.Ban(t)
	case 5:
		l.Prefix.IPv6++
	case 6:
		slices.Reverse(q.Services[0].Limits)
	case 7:
		slices.Reverse(q.Services)
	}
	q.Normalize()
	if q.Validate() != nil {
		return p
	}
	return q
}

// A service that a packet belongs to is the one of the least specific order that design section 2 gives,
// compared one by one.
func TestServiceForIsTheMostSpecific(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policygen.All().Policy(t)
		proto := rapid.SampledFrom([]policy.Proto{policy.TCP, policy.UDP, policy.QUIC}).Draw(t, "to proto")
		local := netip.AddrPortFrom(policygen.Prefix(t).Addr(), rapid.OneOf(rapid.Uint16Range(1, 40), rapid.Uint16()).Draw(t, "to port"))
		want, most := "", -1
		for _, s := range p.Services {
			for _, l := range s.Listen {
				if score := slowScore(l, proto, local); score > most {
					want, most = s.Name, score
				}
			}
		}
		s, ok := p.ServiceFor(proto, local)
		if ok != (most >= 0) || ok && s.Name != want {
			t.Fatalf("%s %s: got %v, want %q in\n%s", proto, local, s, want, p.YAML())
		}
	})
}

// slowScore is higher the more specific an address is, -1 if the packet is not for it.
func slowScore(l policy.Listen, proto policy.Proto, local netip.AddrPort) int {
	udp := map[policy.Proto]bool{policy.UDP: true, policy.QUIC: true}
	if udp[l.Proto] != udp[proto] {
		return -1
	}
	ports := 0
	inside := false
	for port := int(l.First); port <= int(l.Last); port++ {
		ports++
		inside = inside || port == int(local.Port())
	}
	prefix := 0
	if l.Local.IsValid() {
		prefix = 1 + l.Local.Bits()
		inside = inside && l.Local.Contains(local.Addr())
	}
	if !inside {
		return -1
	}
	return (1<<16-ports)*1000 + prefix
}

// Normal prefixes hold exactly the addresses of those that they were made of.
func TestNormalPrefixes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefixes := policygen.Prefixes(t)
		normal := policy.NormalPrefixes(prefixes)
		for i, a := range normal {
			if i > 0 && policy.ComparePrefixes(normal[i-1], a) >= 0 {
				t.Fatalf("not sorted: %v", normal)
			}
			for j, b := range normal {
				if i != j && a.Overlaps(b) {
					t.Fatalf("%v is inside %v", a, b)
				}
			}
		}
		addr := policygen.Prefix(t).Addr()
		want := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
		by, got := policy.FindPrefix(normal, addr)
		if got != want || got && !by.Contains(addr) {
			t.Fatalf("%v in %v: got %v by %v, want %v", addr, prefixes, got, by, want)
		}
		if again := policy.NormalPrefixes(normal); fmt.Sprint(again) != fmt.Sprint(normal) {
			t.Fatalf("%v becomes %v", normal, again)
		}
	})
}
