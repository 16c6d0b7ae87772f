// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/synward/synward/pkg/policy"
)

// memberBits gives each different list of sources that a policy names a bit of the sets.
type memberBits struct {
	policy *policy.Policy
	bits   map[string]uint64
	lists  [][]netip.Prefix
}

func newMemberBits(p *policy.Policy) (*memberBits, error) {
	m := &memberBits{policy: p, bits: map[string]uint64{}}
	for _, s := range p.Services {
		m.add(s.Allow)
		for _, l := range s.Limits {
			m.add(l.From)
			m.add(l.Except)
		}
	}
	for _, l := range p.Global.Limits {
		m.add(l.From)
		m.add(l.Except)
	}
	if len(m.lists) > 64 {
		return nil, fail(ErrInvalid, "the policy names %d different lists of sources in from, except and allow of services; at most 64", len(m.lists))
	}
	return m, nil
}

func (m *memberBits) add(members policy.Members) {
	if key := memberKey(members); key != "" && m.bits[key] == 0 {
		m.bits[key] = 1 << (len(m.lists) & 63)
		m.lists = append(m.lists, expand(m.policy, members))
	}
}

func memberKey(members policy.Members) string {
	if members.IsEmpty() {
		return ""
	}
	return fmt.Sprint(members)
}

// bit is 0 for members that are empty.
func (m *memberBits) bit(members policy.Members) uint64 { return m.bits[memberKey(members)] }

// expand is all prefixes of members, sorted.
func expand(p *policy.Policy, members policy.Members) []netip.Prefix {
	out := slices.Clone(members.Prefixes)
	for _, s := range p.Sets {
		if slices.Contains(members.Sets, s.Name) {
			out = append(out, s.Prefixes...)
		}
	}
	slices.SortFunc(out, cmpPrefix)
	return slices.Compact(out)
}

// trie is what an address whose longest match is a prefix is in: also what wider prefixes say, for a
// look-up ends at the longest.
func (m *memberBits) trie() map[netip.Prefix]uint64 {
	bits := map[netip.Prefix]uint64{}
	for n, list := range m.lists {
		for _, p := range list {
			bits[p] |= 1 << n
		}
	}
	inherit(bits, func(own, wider uint64) uint64 { return own | wider })
	return bits
}

// inherit adds to each prefix what the next wider one in the map says. Sorted, a prefix stands behind
// those that contain it, so a stack of those that are open is enough.
func inherit[V any](all map[netip.Prefix]V, add func(own, wider V) V) {
	sorted := make([]netip.Prefix, 0, len(all))
	for p := range all {
		sorted = append(sorted, p)
	}
	slices.SortFunc(sorted, cmpPrefix)
	var open []netip.Prefix
	for _, p := range sorted {
		for len(open) > 0 && !contains(open[len(open)-1], p) {
			open = open[:len(open)-1]
		}
		if len(open) > 0 {
			all[p] = add(all[p], all[open[len(open)-1]])
		}
		open = append(open, p)
	}
}

func contains(wide, narrow netip.Prefix) bool {
	return wide.Bits() <= narrow.Bits() && wide.Contains(narrow.Addr())
}
