// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func anyPrefix(t *rapid.T) netip.Prefix {
	// Few bits vary, so that prefixes meet.
	if rapid.Bool().Draw(t, "ipv4") {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, rapid.Byte().Draw(t, "host")})
		return netip.PrefixFrom(addr, rapid.IntRange(22, 32).Draw(t, "bits")).Masked()
	}
	addr := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 6: rapid.Byte().Draw(t, "net"), 15: rapid.Byte().Draw(t, "host")})
	return netip.PrefixFrom(addr, rapid.SampledFrom([]int{32, 48, 56, 64, 120, 128}).Draw(t, "bits")).Masked()
}

func anyPrefixes(t *rapid.T) []netip.Prefix {
	return rapid.SliceOfN(rapid.Custom(anyPrefix), 0, 6).Draw(t, "prefixes")
}

func anyMembers(t *rapid.T, sets []Set) Members {
	m := Members{Prefixes: anyPrefixes(t)}
	for _, s := range sets {
		if rapid.IntRange(0, 3).Draw(t, "has "+s.Name) == 0 {
			m.Sets = append(m.Sets, s.Name)
		}
	}
	return m
}

func anyName(t *rapid.T) string {
	return rapid.OneOf(rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9_.-]{0,4}`),
		rapid.SampledFrom([]string{"true", "null", "1e5", "0x1", "1.5", "007", "12", "y", "a-b", "v1.2", "1_000", "2001-01-01"})).
		Filter(func(s string) bool { _, err := netip.ParseAddr(s); return err != nil }).Draw(t, "name")
}

func anyListen(t *rapid.T) Listen {
	l := Listen{Proto: rapid.SampledFrom([]Proto{TCP, TCP, UDP, QUIC}).Draw(t, "proto")}
	switch rapid.IntRange(0, 3).Draw(t, "ports") {
	case 0:
		l.Last = 65535
	case 1:
		l.First = rapid.Uint16Range(1, 20).Draw(t, "first")
		l.Last = rapid.Uint16Range(l.First, l.First+20).Draw(t, "last")
	default:
		l.First = rapid.Uint16Range(1, 65535).Draw(t, "port")
		l.Last = l.First
	}
	if rapid.Bool().Draw(t, "has local") {
		l.Local = anyPrefix(t)
	}
	return l
}

func anyLimit(t *rapid.T, sets []Set) Limit {
	l := Limit{
		Kind:          rapid.SampledFrom(kinds()).Draw(t, "kind"),
		Per:           rapid.SampledFrom(pers()).Draw(t, "per"),
		Rate:          Rate{rapid.Uint64Range(1, 5000).Draw(t, "count"), rapid.SampledFrom(units()).Draw(t, "unit").length},
		Over:          rapid.SampledFrom(append(overs(), OverDrop, OverDrop, "")).Draw(t, "over"),
		Strict:        rapid.Bool().Draw(t, "strict"),
		CountRejected: rapid.Bool().Draw(t, "count rejected"),
	}
	l.Rate.Period *= time.Duration(rapid.Int64Range(1, 100).Draw(t, "periods"))
	if rapid.Bool().Draw(t, "has burst") {
		l.Burst = rapid.Uint64Range(1, 6000).Draw(t, "burst")
	}
	if l.Kind == KindConcurrent {
		l.Rate, l.Burst, l.Concurrent = Rate{}, 0, rapid.Uint64Range(1, 1000).Draw(t, "concurrent")
	}
	if l.Per != PerService && rapid.Bool().Draw(t, "has prefix") {
		l.Prefix = PrefixLengths{rapid.IntRange(1, 32).Draw(t, "ipv4"), rapid.IntRange(1, 128).Draw(t, "ipv6")}
	}
	if rapid.IntRange(0, 3).Draw(t, "has lists") == 0 {
		l.From, l.Except = anyMembers(t, sets), anyMembers(t, sets)
	}
	if rapid.IntRange(0, 3).Draw(t, "is exempt") == 0 {
		l.Exempt = ExemptVerified
	}
	if rapid.IntRange(0, 2).Draw(t, "bans") == 0 {
		l.Ban = anyBan(t)
	}
	return l
}

func anyBan(t *rapid.T) *Ban {
	seconds := func(name string) time.Duration {
		return time.Duration(rapid.Int64Range(1, 200_000).Draw(t, name)) * time.Second
	}
	b := &Ban{After: rapid.Uint64Range(1, maxStrikes).Draw(t, "after"), Within: seconds("within"), For: seconds("for")}
	if rapid.Bool().Draw(t, "has growth") {
		b.Growth = float64(rapid.IntRange(100, 10000).Draw(t, "growth")) / 100
	}
	if rapid.Bool().Draw(t, "has max") {
		b.Max = b.For + seconds("max")
	}
	b.Scope = rapid.SampledFrom([]BanScope{"", BanGlobal, BanService}).Draw(t, "scope")
	if rapid.Bool().Draw(t, "has prefix") {
		b.Prefix = PrefixLengths{rapid.IntRange(1, 32).Draw(t, "ipv4"), rapid.IntRange(1, 128).Draw(t, "ipv6")}
	}
	return b
}

// anyPolicy draws a policy that makes sense: whatever would not is left out of what was drawn.
func anyPolicy(t *rapid.T) *Policy {
	p := &Policy{
		Mode:          rapid.SampledFrom(append(modes(), "")).Draw(t, "mode"),
		OnTableFull:   rapid.SampledFrom(append(tableFulls(), "")).Draw(t, "on table full"),
		StrictParsing: rapid.Bool().Draw(t, "strict parsing"),
	}
	if rapid.Bool().Draw(t, "has source") {
		p.Source = PrefixLengths{rapid.IntRange(1, 32).Draw(t, "ipv4"), rapid.IntRange(1, 128).Draw(t, "ipv6")}
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.Custom(anyName), 0, 3, rapid.ID).Draw(t, "sets") {
		p.Sets = append(p.Sets, Set{Name: name, Prefixes: anyPrefixes(t)})
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.Custom(anyName), 0, 4, rapid.ID).Draw(t, "services") {
		if s := anyService(t, p, name); len(s.Listen) > 0 {
			p.Services = append(p.Services, s)
		}
	}
	for range rapid.IntRange(0, 2).Draw(t, "global limits") {
		p.Global.Limits = append(p.Global.Limits, anyLimit(t, p.Sets))
		if p.Validate() != nil {
			p.Global.Limits = p.Global.Limits[:len(p.Global.Limits)-1]
		}
	}
	p.Allow, p.Block = anyMembers(t, p.Sets), anyMembers(t, p.Sets)
	return p
}

// anyService draws a service that the policy has room for, perhaps without an address.
func anyService(t *rapid.T, p *Policy, name string) Service {
	s := Service{Name: name, Allow: anyMembers(t, p.Sets)}
	for _, l := range rapid.SliceOfN(rapid.Custom(anyListen), 1, 4).Draw(t, "listen") {
		s.Listen = append(s.Listen, l)
		if with(p, s).Validate() != nil {
			s.Listen = s.Listen[:len(s.Listen)-1]
		}
	}
	for range rapid.IntRange(0, 4).Draw(t, "limits") {
		s.Limits = append(s.Limits, anyLimit(t, p.Sets))
		if with(p, s).Validate() != nil {
			s.Limits = s.Limits[:len(s.Limits)-1]
		}
	}
	return s
}

func with(p *Policy, s Service) *Policy {
	c := *p
	c.Services = append(slices.Clone(p.Services), s)
	return &c
}

// A policy that is written out is read as the same policy, and applying it again changes nothing.
func TestRandomPoliciesRoundTrip(t *testing.T) {
	limits, bans := 0, 0
	for range 10 {
		rapid.Check(t, func(t *rapid.T) {
			p := anyPolicy(t)
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
			checkRoundTrip(t, p)
			for _, s := range p.Services {
				limits += len(s.Limits)
				for _, l := range s.Limits {
					if l.Ban != nil {
						bans++
					}
				}
			}
		})
	}
	if limits < 100 || bans < 10 {
		t.Errorf("only %d limits and %d bans were drawn", limits, bans)
	}
}

// A difference is empty if and only if the policies mean the same, and a policy made equal by it has none.
func TestRandomDifferences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, q := anyPolicy(t), anyPolicy(t)
		if rapid.Bool().Draw(t, "near") {
			q = nearby(t, p)
		}
		forth, back := Diff(p, q), Diff(q, p)
		if equal := p.Equal(q); equal != (len(forth) == 0) || equal != (len(back) == 0) || equal != q.Equal(p) {
			t.Fatalf("equal: %v, differences: %v\n%s\n%s", equal, forth, p.YAML(), q.YAML())
		}
		for _, c := range forth {
			if c.Op == Changed && c.Old == c.New {
				t.Fatalf("no difference: %s", c)
			}
		}
		if d := Diff(p, p.Clone()); len(d) != 0 {
			t.Fatalf("a copy differs: %v", d)
		}
	})
}

// nearby changes one thing of a policy, or nothing.
func nearby(t *rapid.T, p *Policy) *Policy {
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
		l.From = anyMembers(t, q.Sets)
	case 3:
		l.Except = anyMembers(t, q.Sets)
	case 4:
		l.Ban = anyBan(t)
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
		p := anyPolicy(t)
		proto := rapid.SampledFrom([]Proto{TCP, UDP, QUIC}).Draw(t, "to proto")
		local := netip.AddrPortFrom(anyPrefix(t).Addr(), rapid.OneOf(rapid.Uint16Range(1, 40), rapid.Uint16()).Draw(t, "to port"))
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
func slowScore(l Listen, proto Proto, local netip.AddrPort) int {
	udp := map[Proto]bool{UDP: true, QUIC: true}
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
		prefixes := anyPrefixes(t)
		normal := normalPrefixes(prefixes)
		for i, a := range normal {
			if i > 0 && comparePrefixes(normal[i-1], a) >= 0 {
				t.Fatalf("not sorted: %v", normal)
			}
			for j, b := range normal {
				if i != j && a.Overlaps(b) {
					t.Fatalf("%v is inside %v", a, b)
				}
			}
		}
		addr := anyPrefix(t).Addr()
		want := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
		by, got := findPrefix(normal, addr)
		if got != want || got && !by.Contains(addr) {
			t.Fatalf("%v in %v: got %v by %v, want %v", addr, prefixes, got, by, want)
		}
		if again := normalPrefixes(normal); fmt.Sprint(again) != fmt.Sprint(normal) {
			t.Fatalf("%v becomes %v", normal, again)
		}
	})
}
