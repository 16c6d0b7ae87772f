// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"cmp"
	"net/netip"
	"slices"
)

// Compare orders prefixes by family, address and length, so that what a prefix covers comes right behind it.
func Compare(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Set holds prefixes, each once. The zero value is empty.
type Set struct{ sorted []netip.Prefix }

// NewSet holds the prefixes, and takes over the slice.
func NewSet(prefixes []netip.Prefix) *Set {
	slices.SortFunc(prefixes, Compare)
	return &Set{slices.Compact(prefixes)}
}

// Len counts prefixes.
func (s *Set) Len() int { return len(s.sorted) }

// Sorted are the prefixes in the order of Compare. They are still the set's.
func (s *Set) Sorted() []netip.Prefix { return s.sorted }

// Overlapping are the prefixes that have an address in common with p, the wider ones first.
func (s *Set) Overlapping(p netip.Prefix) (out []netip.Prefix) {
	for bits := range p.Bits() {
		wide := netip.PrefixFrom(p.Addr(), bits).Masked()
		if _, found := slices.BinarySearchFunc(s.sorted, wide, Compare); found {
			out = append(out, wide)
		}
	}
	first, _ := slices.BinarySearchFunc(s.sorted, p, Compare)
	for _, q := range s.sorted[first:] {
		if !p.Overlaps(q) {
			break
		}
		out = append(out, q)
	}
	return out
}

// Remove takes prefixes out.
func (s *Set) Remove(prefixes []netip.Prefix) {
	if len(prefixes) > 0 {
		gone := NewSet(slices.Clone(prefixes))
		s.sorted, _ = Differ(s, gone)
	}
}

// Merge drops what a wider prefix of the set covers. Neighbours stay as they were written.
func (s *Set) Merge() {
	kept := s.sorted[:0]
	for _, p := range s.sorted {
		if n := len(kept); n == 0 || !kept[n-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	s.sorted = kept
}

// Differ are the prefixes that only a holds, and those that only b holds.
func Differ(a, b *Set) (onlyA, onlyB []netip.Prefix) {
	x, y := a.sorted, b.sorted
	for len(x) > 0 && len(y) > 0 {
		switch c := Compare(x[0], y[0]); {
		case c < 0:
			onlyA, x = append(onlyA, x[0]), x[1:]
		case c > 0:
			onlyB, y = append(onlyB, y[0]), y[1:]
		default:
			x, y = x[1:], y[1:]
		}
	}
	return append(onlyA, x...), append(onlyB, y...)
}

// Holds says whether just this prefix is there.
func (s *Set) Holds(p netip.Prefix) bool {
	_, found := slices.BinarySearchFunc(s.sorted, p, Compare)
	return found
}
