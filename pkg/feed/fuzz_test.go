// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// Whatever a list holds: each line that is read names a prefix that stands alone, a bad one says why in one line
// that a terminal can show, and the set that is read, written one prefix a line, reads as itself. Merging changes
// nobody's fate.
func FuzzFeed(f *testing.F) {
	for _, form := range forms {
		f.Add([]byte(form.text))
		b, _ := io.ReadAll(packed(form.text))
		f.Add(b)
	}
	for _, s := range []string{"192.0.2.7/24\n", "fe80::1%eth0", "::ffff:1.2.3.4/96\n", "{\"cidr\":1}", ",,,,,", "1.2.3.4,0,wl", "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		last := 0
		var all []netip.Prefix
		err := Each(bytes.NewReader(text), func(number int, line Line, bad error) error {
			if number <= last {
				t.Fatalf("line %d after %d", number, last)
			}
			last = number
			if bad != nil {
				checkOneLine(t, bad.Error())
				return nil
			}
			checkPrefix(t, line.Prefix)
			all = append(all, line.Prefix)
			return nil
		})
		if err != nil {
			checkOneLine(t, err.Error())
		}
		checkMerged(t, all)
	})
}

func checkOneLine(t *testing.T, text string) {
	if len(text) > 1000 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Fatalf("not one line for a terminal: %q", text)
	}
}

func checkPrefix(t *testing.T, p netip.Prefix) {
	if !p.IsValid() || p != p.Masked() || p.Addr().Zone() != "" || p.Addr().Is4In6() && p.Bits() >= 96 {
		t.Fatalf("%v is no prefix that stands alone", p)
	}
}

func checkMerged(t *testing.T, all []netip.Prefix) {
	s := NewSet(slices.Clone(all))
	s.Merge()
	var kept []netip.Prefix
	var text strings.Builder
	for _, p := range s.Sorted() {
		kept = append(kept, p)
		fmt.Fprintln(&text, p)
	}
	for i, p := range kept {
		if i > 0 && kept[i-1].Overlaps(p) {
			t.Fatalf("%v and %v overlap", kept[i-1], p)
		}
	}
	for _, p := range all {
		covered := false
		for _, k := range kept {
			covered = covered || k.Bits() <= p.Bits() && k.Contains(p.Addr())
		}
		if !covered {
			t.Fatalf("%v is gone: %v", p, kept)
		}
	}
	again, err := Read(strings.NewReader(text.String()), false)
	if err != nil || again.BadLines > 0 {
		t.Fatal(errors.Join(err, fmt.Errorf("bad: %v", again.Bad)))
	}
	if again.Len() != len(kept) {
		t.Fatalf("%d prefixes, read again %d", len(kept), again.Len())
	}
}
