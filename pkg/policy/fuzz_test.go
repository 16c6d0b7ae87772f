// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever the text, Parse returns a policy that survives being written out, or an error that says where
// in the text.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/bad/*.yaml"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			if text, err := os.ReadFile(path); err == nil && len(text) < 4096 {
				f.Add(text)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse("fuzz.yaml", text, readTestFile)
		if err != nil {
			checkPlace(t, text, err)
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("accepted, and then not: %v", err)
		}
		checkRoundTrip(t, p)
		if d := Diff(p, p); len(d) != 0 {
			t.Fatalf("it differs from itself: %v", d)
		}
	})
}

// A listen address that is read is written in a form that reads as the same, or the error wraps ErrInvalid.
func FuzzParseListen(f *testing.F) {
	for _, s := range []string{"80/tcp", "8000-8100/tcp", "any/udp", "203.0.113.10:8443/tcp", "[2001:db8::/64]:443/quic"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseListen(s)
		if err != nil {
			checkInvalid(t, "ParseListen", s, err, err.Error())
			return
		}
		if again, err := ParseListen(l.String()); err != nil || again != l {
			t.Errorf("ParseListen(%q) = %s, which reads as %v, %v", s, l, again, err)
		}
	})
}
