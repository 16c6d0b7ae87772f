// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"fmt"
	"io"
	"net/netip"
)

// Bad is a line that could not be read.
type Bad struct {
	Line int
	Err  error
}

func (b Bad) Error() string { return fmt.Sprintf("line %d: %v", b.Line, b.Err) }

// Contents is what a list holds for one purpose.
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
	c := &Contents{}
	other := ForAllow
	if allow {
		other = ForBlock
	}
	var prefixes []netip.Prefix
	err := Each(r, func(number int, line Line, bad error) error {
		if bad != nil {
			if c.BadLines++; len(c.Bad) < maxBad {
				c.Bad = append(c.Bad, Bad{number, bad})
			}
			return nil
		}
		c.Named++
		if line.Mark == other {
			c.Others++
		} else {
			prefixes = append(prefixes, line.Prefix)
		}
		return nil
	})
	c.Set = NewSet(prefixes)
	return c, err
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
