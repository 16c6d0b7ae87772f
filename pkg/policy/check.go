// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// flaw is what makes no sense in a policy, and where: a path of keys and positions, and then the first
// of fields that the file holds.
type flaw struct {
	path   []any
	fields []string
	text   string
}

func flawf(fields, format string, args ...any) *flaw {
	return &flaw{fields: strings.Fields(fields), text: fmt.Sprintf(format, args...)}
}

// under puts the flaw of a part below the whole. A nil flaw stays nil.
func (f *flaw) under(path ...any) *flaw {
	if f != nil {
		f.path = append(path, f.path...)
	}
	return f
}

// Validate says whether a policy that no file describes makes sense, as one made for a command. Errors
// wrap ErrInvalid and are one line that names the service and the limit.
func (p *Policy) Validate() error {
	n := p.Clone()
	n.Normalize()
	f := n.check()
	if f == nil {
		return nil
	}
	return invalid("policy", "%s", strings.TrimPrefix(n.place(f)+": "+f.text, ": "))
}

// place is the path of a flaw in words, as in "service web limit 2".
func (p *Policy) place(f *flaw) string {
	var words []string
	for _, step := range f.path {
		switch step := step.(type) {
		case int:
			if words[len(words)-1] == "service" {
				words = append(words, p.Services[step].Name)
			} else {
				words = append(words, fmt.Sprint(step+1))
			}
		case string:
			words = append(words, strings.TrimSuffix(step, "s"))
		}
	}
	return strings.Join(words, " ")
}

// check finds the first thing that makes no sense in a policy whose defaults are filled in.
func (p *Policy) check() *flaw {
	for _, check := range []func() *flaw{
		p.checkHead, p.checkSets, p.checkServices, p.checkListens, p.checkGlobal, p.checkLists, p.checkMemberLists,
	} {
		if f := check(); f != nil {
			return f
		}
	}
	return nil
}

func (p *Policy) checkHead() *flaw {
	if !slices.Contains(modes(), p.Mode) {
		return flawf("mode", "there is no mode %q; %s", p.Mode, oneOf(modes()))
	}
	if !slices.Contains(tableFulls(), p.OnTableFull) {
		return flawf("on_table_full", "there is no on_table_full %q; %s", p.OnTableFull, oneOf(tableFulls()))
	}
	return checkLengths(p.Source).under("source")
}

func checkLengths(l PrefixLengths) *flaw {
	if l.IPv4 < 1 || l.IPv4 > 32 {
		return flawf("ipv4", "an IPv4 prefix is 1 to 32 bits long, not %d", l.IPv4)
	}
	if l.IPv6 < 1 || l.IPv6 > 128 {
		return flawf("ipv6", "an IPv6 prefix is 1 to 128 bits long, not %d", l.IPv6)
	}
	return nil
}

func (p *Policy) checkSets() *flaw {
	if len(p.Sets) > MaxSets {
		return flawf("", "there are %d sets; use at most %d", len(p.Sets), MaxSets).under("sets", p.Sets[MaxSets].Name)
	}
	for i, s := range p.Sets {
		if f := checkName("set", s.Name); f != nil {
			return f.under("sets", s.Name)
		}
		if _, err := netip.ParseAddr(s.Name); err == nil {
			return flawf("", "the set name %q is an address; use a name that is none", s.Name).under("sets", s.Name)
		}
		if f := checkPrefixes(s.Prefixes); f != nil {
			return f.under("sets", s.Name)
		}
		if slices.ContainsFunc(p.Sets[:i], func(t Set) bool { return t.Name == s.Name }) {
			return flawf("", "there are two sets of the name %q; rename one", s.Name).under("sets", s.Name)
		}
	}
	return nil
}

// maxName is the longest name of a service or set.
const maxName = 31

func checkName(what, name string) *flaw {
	alnum := func(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' }
	odd := strings.ContainsFunc(name, func(r rune) bool { return !alnum(r) && !strings.ContainsRune("_.-", r) })
	if name == "" || len(name) > maxName || odd || !alnum(rune(name[0])) {
		return flawf("name", "the %s name %q is not usable; take 1 to %d letters, digits, _ . or -, a letter or digit first",
			what, name, maxName)
	}
	return nil
}

func (p *Policy) checkServices() *flaw {
	if len(p.Services) > MaxServices {
		return flawf("", "there are %d services; use at most %d", len(p.Services), MaxServices).under("services", MaxServices)
	}
	for i, s := range p.Services {
		if f := p.checkService(i, s); f != nil {
			return f.under("services", i)
		}
	}
	return nil
}

func (p *Policy) checkService(i int, s Service) *flaw {
	if f := checkName("service", s.Name); f != nil {
		return f
	}
	if slices.ContainsFunc(p.Services[:i], func(t Service) bool { return t.Name == s.Name }) {
		return flawf("name", "there are two services of the name %q; rename one or join them", s.Name)
	}
	if len(s.Listen) == 0 {
		return flawf("listen", "a service listens somewhere; write it as in listen: [443/tcp]")
	}
	if len(s.Limits) > MaxServiceLimits {
		return flawf("", "a service has at most %d limits, not %d; join some or move some to global",
			MaxServiceLimits, len(s.Limits)).under("limits", MaxServiceLimits)
	}
	for j, l := range s.Limits {
		if f := checkLimit(l, scopeOf(s)); f != nil {
			return f.under("limits", j)
		}
		if f := p.checkLimitMembers(l); f != nil {
			return f.under("limits", j)
		}
	}
	return p.checkMembers(s.Allow).under("allow")
}

func (p *Policy) checkGlobal() *flaw {
	limits := p.Global.Limits
	if len(limits) > MaxGlobalLimits {
		return flawf("", "global has at most %d limits, not %d; move some to services", MaxGlobalLimits,
			len(limits)).under("global", "limits", MaxGlobalLimits)
	}
	if len(limits) > 0 && len(p.Services) == 0 {
		return flawf("limits", "global limits hold for services, and there are none; name a service").under("global")
	}
	for j, l := range limits {
		if l.Per == PerService {
			return flawf("per", "a global limit counts across services; move it to a service, or count per source or destination").
				under("global", "limits", j)
		}
		f := checkLimit(l, scopeOf(p.Services...))
		if f == nil {
			f = p.checkLimitMembers(l)
		}
		if f != nil {
			return f.under("global", "limits", j)
		}
	}
	return nil
}

func (p *Policy) checkLists() *flaw {
	if f := p.checkMembers(p.Allow); f != nil {
		return f.under("allow")
	}
	return p.checkMembers(p.Block).under("block")
}

func (p *Policy) checkLimitMembers(l Limit) *flaw {
	if f := p.checkMembers(l.From); f != nil {
		return f.under("from")
	}
	return p.checkMembers(l.Except).under("except")
}

func (p *Policy) checkMembers(m Members) *flaw {
	if f := checkPrefixes(m.Prefixes); f != nil {
		return f
	}
	for _, name := range m.Sets {
		if _, ok := p.set(name); !ok {
			return flawf("", "%s", p.unknownSet(name))
		}
	}
	return nil
}

func checkPrefixes(prefixes []netip.Prefix) *flaw {
	if slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return !p.IsValid() }) {
		return flawf("", "the list holds a prefix that is none; take it out")
	}
	return nil
}

func (p *Policy) unknownSet(name string) string {
	var names []string
	for _, s := range p.Sets {
		names = append(names, s.Name)
	}
	return fmt.Sprintf("there is no set %q%s; name it under sets, or write an address or a prefix", name, suggest(name, names))
}

// checkMemberLists bounds the different lists of sources, each of which the data path has to look up.
func (p *Policy) checkMemberLists() *flaw {
	seen := map[string]bool{}
	full := func(m Members) bool {
		m = normalMembers(m)
		if !m.IsEmpty() {
			seen[strings.Join(m.Sets, " ")+fmt.Sprint(m.Prefixes)] = true
		}
		return len(seen) > MaxMemberLists
	}
	tooMany := func(field string) *flaw {
		return flawf(field, "this is one list of sources too many: from, except and allow of services may name %d different ones",
			MaxMemberLists)
	}
	limits := func(limits []Limit) *flaw {
		for j, l := range limits {
			if full(l.From) {
				return tooMany("from").under("limits", j)
			}
			if full(l.Except) {
				return tooMany("except").under("limits", j)
			}
		}
		return nil
	}
	for i, s := range p.Services {
		if full(s.Allow) {
			return tooMany("allow").under("services", i)
		}
		if f := limits(s.Limits); f != nil {
			return f.under("services", i)
		}
	}
	return limits(p.Global.Limits).under("global")
}
