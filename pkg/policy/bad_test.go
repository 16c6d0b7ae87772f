// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// updateVariable writes the golden files anew.
const updateVariable = "SYNWARD_TEST_UPDATE"

// Each wrong policy is refused with exactly the message beside it.
func TestBadFiles(t *testing.T) {
	paths := testPolicies(t, "testdata/bad/*.yaml")
	if len(paths) < 50 {
		t.Errorf("there are %d wrong policies, want 50 at least", len(paths))
	}
	for _, path := range paths {
		text := readTest(t, path)
		_, err := Parse(filepath.Base(path), text, readTestFile)
		if err == nil {
			t.Errorf("%s is accepted", path)
			continue
		}
		checkPlace(t, text, err)
		checkGolden(t, strings.TrimSuffix(path, ".yaml")+".txt", err.Error()+"\n")
	}
}

func checkGolden(t *testing.T, path, got string) {
	t.Helper()
	if os.Getenv(updateVariable) != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want, err := os.ReadFile(path); err != nil || got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s(%v)", path, got, want, err)
	}
}

// checkPlace says whether an error is of the kind and form that Parse promises, for a place inside the text.
func checkPlace(t *testing.T, text []byte, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, ErrInvalid) {
		t.Fatalf("%T does not say where, or does not wrap ErrInvalid: %v", err, err)
	}
	plain := strings.ReplaceAll(strings.TrimPrefix(string(text), "\ufeff"), "\r\n", "\n")
	lines := strings.Split(strings.TrimSuffix(plain, "\n"), "\n")
	if e.Line < 1 || e.Line > len(lines) || e.Text != lines[e.Line-1] {
		t.Fatalf("line %d %q is not one of the text: %v", e.Line, e.Text, err)
	}
	if e.Column < 1 || e.Column > utf8.RuneCountInString(e.Text)+1 {
		t.Fatalf("column %d is outside of %q: %v", e.Column, e.Text, err)
	}
	if strings.ContainsAny(e.Short(), "\n\r") || strings.Count(err.Error(), "\n") != 2 || e.Message == "" {
		t.Fatalf("not three lines: %q", err)
	}
}
