// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// testFiles are the lists that the policies of testdata name.
var testFiles = map[string]string{
	"/etc/synward/relays.txt":  "# relays\r\n198.51.100.7 ; first\r\n\r\n198.51.100.8\r\n",
	"/etc/synward/deny.netset": "203.0.113.0/24\n203.0.113.7\n2001:db8:bad::/48\n",
	"/etc/synward/empty.txt":   "# nobody yet\n",
	"/etc/synward/bad.txt":     "192.0.2.1\n\n192.0.2.7/24\n",
}

func readTestFile(path string) ([]byte, error) {
	text, ok := testFiles[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return []byte(text), nil
}

func readTest(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func mustParse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse("test.yaml", []byte(text), readTestFile)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func testPolicies(t *testing.T, pattern string) []string {
	t.Helper()
	paths, _ := filepath.Glob(pattern)
	if len(paths) == 0 {
		t.Fatalf("no file is %s", pattern)
	}
	return paths
}

// The good policies are accepted, and written out they are the same policy and the same text.
func TestGoodFiles(t *testing.T) {
	for _, path := range testPolicies(t, "testdata/good/*.yaml") {
		p, err := Parse(filepath.Base(path), readTest(t, path), readTestFile)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		checkRoundTrip(t, p)
	}
}

type fataler interface{ Fatalf(string, ...any) }

func checkRoundTrip(t fataler, p *Policy) {
	text := p.YAML()
	again, err := Parse("again.yaml", text, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !p.Equal(again) {
		t.Fatalf("another policy:\n%s\n%s", text, again.YAML())
	}
	if twice := again.YAML(); !bytes.Equal(text, twice) {
		t.Fatalf("another text:\n%s\n%s", text, twice)
	}
}
