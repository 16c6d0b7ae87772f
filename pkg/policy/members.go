// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/synward/synward/pkg/feed"
)

// IsEmpty says whether the members name nobody and nothing. Members of an empty set are not empty.
func (m Members) IsEmpty() bool { return len(m.Sets) == 0 && len(m.Prefixes) == 0 }

// comparePrefixes orders by family, address and length; the zero Prefix comes first.
func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// normalPrefixes returns the prefixes sorted, masked, none inside another; nil if there are none.
// Neighbours stay as they were written, for a list shows what an operator put into it.
func normalPrefixes(prefixes []netip.Prefix) []netip.Prefix {
	var sorted []netip.Prefix
	for _, p := range prefixes {
		sorted = append(sorted, feed.Unmap(p.Masked()))
	}
	slices.SortFunc(sorted, comparePrefixes)
	// Sorted, a prefix follows the one that contains it at once or behind others inside of that one.
	kept := sorted[:0]
	for _, p := range sorted {
		if n := len(kept); n == 0 || !kept[n-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return kept
}

// findPrefix returns the prefix that holds the address, of prefixes that are normal.
func findPrefix(prefixes []netip.Prefix, a netip.Addr) (netip.Prefix, bool) {
	after, _ := slices.BinarySearchFunc(prefixes, a, func(p netip.Prefix, a netip.Addr) int {
		if p.Addr().Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	if after == 0 || !prefixes[after-1].Contains(a) {
		return netip.Prefix{}, false
	}
	return prefixes[after-1], true
}

func normalMembers(m Members) Members {
	sets := slices.Clone(m.Sets)
	slices.Sort(sets)
	sets = slices.Compact(sets)
	if len(sets) == 0 {
		sets = nil
	}
	return Members{Sets: sets, Prefixes: normalPrefixes(m.Prefixes)}
}

// set returns a set by its name.
func (p *Policy) set(name string) (Set, bool) {
	i := slices.IndexFunc(p.Sets, func(s Set) bool { return s.Name == name })
	if i < 0 {
		return Set{}, false
	}
	return p.Sets[i], true
}

// Covers says whether an address is one of the members, and by what: a set and the prefix in it, or a
// prefix written in place. The policy must be normal.
func (p *Policy) Covers(m Members, a netip.Addr) (by string, ok bool) {
	a = a.Unmap().WithZone("")
	if prefix, found := findPrefix(m.Prefixes, a); found {
		return FormatPrefix(prefix), true
	}
	for _, name := range m.Sets {
		set, _ := p.set(name)
		if prefix, found := findPrefix(set.Prefixes, a); found {
			return FormatPrefix(prefix) + " of set " + name, true
		}
	}
	return "", false
}
