// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/gaissmai/bart"
	"pgregory.net/rapid"
)

func setOf(prefixes ...string) *Set {
	var out []netip.Prefix
	for _, p := range prefixes {
		out = append(out, netip.MustParsePrefix(p))
	}
	return NewSet(out)
}

func TestOverlapping(t *testing.T) {
	s := setOf("10.1.2.3/32", "10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "::/0", "10.0.0.0/8")
	for p, want := range map[string]string{
		"10.1.0.0/16": "[10.0.0.0/8 10.1.0.0/16 10.1.2.3/32]", "10.1.2.3/32": "[10.0.0.0/8 10.1.0.0/16 10.1.2.3/32]",
		"11.0.0.0/8": "[]", "2001:db8::1/128": "[::/0]", "10.3.0.0/16": "[10.0.0.0/8]", "0.0.0.0/0": "[10.0.0.0/8 10.1.0.0/16 10.1.2.3/32 10.2.0.0/16]",
	} {
		if got := fmt.Sprint(s.Overlapping(netip.MustParsePrefix(p))); got != want {
			t.Errorf("%s: %s, want %s", p, got, want)
		}
	}
	s.Remove([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.9.0.0/16")})
	if got := fmt.Sprint(s.Sorted()); got != "[10.1.0.0/16 10.1.2.3/32 10.2.0.0/16 ::/0]" {
		t.Errorf("one is removed: %s", got)
	}
}

// drawPrefix draws from so few bits that prefixes meet.
func drawPrefix(t *rapid.T, label string) netip.Prefix {
	b := rapid.SliceOfN(rapid.Byte(), 2, 2).Draw(t, label)
	if rapid.Bool().Draw(t, label+" is IPv4") {
		a := netip.AddrFrom4([4]byte{b[0] & 0xc1, b[1] & 0x81})
		return netip.PrefixFrom(a, rapid.IntRange(0, 32).Draw(t, label+" bits")).Masked()
	}
	a := netip.AddrFrom16([16]byte{b[0] & 0xc1, b[1] & 0x81})
	return netip.PrefixFrom(a, rapid.IntRange(0, 128).Draw(t, label+" bits")).Masked()
}

func drawSet(t *rapid.T, label string) (*Set, *bart.Lite) {
	var all []netip.Prefix
	table := &bart.Lite{}
	for n := range rapid.IntRange(0, 40).Draw(t, label) {
		p := drawPrefix(t, fmt.Sprint(label, n))
		all = append(all, p)
		table.Insert(p)
	}
	return NewSet(all), table
}

// Another table of prefixes says the same of what a set holds, what overlaps, what two differ in, and whom the merged
// one holds.
func TestSetAgainstAnotherTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, oracle := drawSet(t, "a")
		b, other := drawSet(t, "b")
		p := drawPrefix(t, "p")
		if got, want := a.Sorted(), slices.Collect(oracle.AllSorted()); !slices.Equal(got, want) {
			t.Fatalf("holds %v, want %v", got, want)
		}
		var overlapping []netip.Prefix
		for q := range oracle.All() {
			if q.Overlaps(p) {
				overlapping = append(overlapping, q)
			}
		}
		slices.SortFunc(overlapping, Compare)
		got := a.Overlapping(p)
		slices.SortFunc(got, Compare)
		if !slices.Equal(got, overlapping) {
			t.Fatalf("%v overlaps %v, want %v", p, got, overlapping)
		}
		onlyA, onlyB := Differ(a, b)
		checkOnly(t, onlyA, oracle, other)
		checkOnly(t, onlyB, other, oracle)
		a.Merge()
		for _, q := range a.Sorted() {
			if wide, _ := widest(oracle, q); wide != q {
				t.Fatalf("%v stays, and %v covers it", q, wide)
			}
		}
		merged := NewSet(slices.Clone(a.Sorted()))
		for q := range oracle.All() {
			if wide, _ := widest(oracle, q); !slices.Contains(merged.Sorted(), wide) {
				t.Fatalf("%v is gone, and %v with it", wide, q)
			}
		}
	})
}

func checkOnly(t *rapid.T, only []netip.Prefix, in, notIn *bart.Lite) {
	n := 0
	for q := range in.All() {
		if !notIn.Get(q) {
			n++
			if !slices.Contains(only, q) {
				t.Fatalf("%v is in one alone, and not among %v", q, only)
			}
		}
	}
	if n != len(only) {
		t.Fatalf("%v differ, want %d", only, n)
	}
}

func widest(table *bart.Lite, p netip.Prefix) (wide netip.Prefix, found bool) {
	for q := range table.Supernets(p) {
		if !found || q.Bits() < wide.Bits() {
			wide, found = q, true
		}
	}
	return wide, found
}
