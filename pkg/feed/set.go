// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"fmt"
	"io"
	"iter"
	"net/netip"

	"github.com/gaissmai/bart"
)

// Set holds prefixes, each once. The zero value is empty and ready.
type Set struct{ table bart.Lite }

// NewSet holds the prefixes, none of them inside another: the wider one stays.
func NewSet(prefixes ...netip.Prefix) *Set {
	s := &Set{}
	for _, p := range prefixes {
		s.table.Insert(p.Masked())
	}
	s.merge()
	return s
}

// Len counts prefixes.
func (s *Set) Len() int { return s.table.Size() }

// Sorted walks the prefixes by address, IPv4 first. The set must not change meanwhile.
func (s *Set) Sorted() iter.Seq[netip.Prefix] { return s.table.AllSorted() }

// Holds says whether just this prefix is there.
func (s *Set) Holds(p netip.Prefix) bool { return s.table.Get(p) }

// Take removes a prefix and says whether it was there.
func (s *Set) Take(p netip.Prefix) (found bool) {
	s.table.Modify(p, func(exists bool) bool {
		found = exists
		return true // what is not there is not put there
	})
	return found
}

// Overlapping are the prefixes that have an address in common with p.
func (s *Set) Overlapping(p netip.Prefix) (out []netip.Prefix) {
	for q := range s.table.Supernets(p) {
		out = append(out, q)
	}
	for q := range s.table.Subnets(p) {
		if q != p {
			out = append(out, q)
		}
	}
	return out
}

// merge drops what a wider prefix covers.
func (s *Set) merge() {
	var wide netip.Prefix
	var covered []netip.Prefix
	for p := range s.table.AllSorted() {
		if wide.IsValid() && wide.Bits() < p.Bits() && wide.Contains(p.Addr()) {
			covered = append(covered, p)
			continue
		}
		wide = p
	}
	for _, p := range covered {
		s.table.Delete(p)
	}
}

// Bad is a line that could not be read.
type Bad struct {
	Line int
	Err  error
}

func (b Bad) Error() string { return fmt.Sprintf("line %d: %v", b.Line, b.Err) }

// Contents is what a list of one kind holds.
type Contents struct {
	// Set is not merged yet.
	*Set
	// Named is how many lines name somebody, Others how many of them are marked for the other list.
	Named, Others int
	// Bad are the first lines that could not be read, of BadLines.
	Bad      []Bad
	BadLines int
}

// maxBad is how many bad lines are kept.
const maxBad = 5

// Read reads a list of those that are to be allowed, or blocked. Lines that are marked for the other list are
// counted and left out.
func Read(r io.Reader, allow bool) (*Contents, error) {
	c := &Contents{Set: &Set{}}
	other := ForAllow
	if allow {
		other = ForBlock
	}
	err := Each(r, func(number int, line Line, bad error) error {
		switch {
		case bad != nil:
			if c.BadLines++; len(c.Bad) < maxBad {
				c.Bad = append(c.Bad, Bad{number, bad})
			}
		case line.Mark == other:
			c.Named++
			c.Others++
		default:
			c.Named++
			c.table.Insert(line.Prefix)
		}
		return nil
	})
	return c, err
}

// Merge drops what a wider prefix of the set covers, and says how many lines named nobody new.
func (c *Contents) Merge() (merged int) {
	c.Set.merge()
	return c.Named - c.Others - c.Len()
}

// MaxName is how long the name of a feed may be.
const MaxName = 31

// CheckName wants a name of a feed: what may stand in a command and in a table.
func CheckName(name string) error {
	ok := name != "" && len(name) <= MaxName && name[0] != '-'
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return fmt.Errorf("feed name %q: use a to z, 0 to 9 and -, at most %d of them, as in spamhaus-drop", name, MaxName)
	}
	return nil
}
