// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// corpusDir is where Go's fuzzer looks for what FuzzDifferential begins with, and where it leaves a
// frame that makes a difference.
const corpusDir = "testdata/fuzz/FuzzDifferential"

// corpusShapes are the ways of running a frame of which the corpus has each rule once, if it can be.
var corpusShapes = map[string]variant{"": 0, "-split": 0x1000, "-bare": 0x30, "-strict-blocked": fuzzStrict | blockSource<<2}

// corpusKey is a rule of the reference and a shape.
type corpusKey struct{ rule, shape string }

// file is where the corpus has the frame.
func (k corpusKey) file() string {
	name := strings.NewReplacer(" ", "-", "'", "", ",", "").Replace(strings.ToLower(k.rule))
	return filepath.Join(corpusDir, name+k.shape)
}

// decides is the rule by which a frame is judged in a variant; empty where Program.Run cannot say.
func decides(frame []byte, v variant) string {
	if !v.bare() {
		return referEthernet(frame, v.general()).why
	}
	r, ok := referBare(frame, v.general())
	if !ok {
		return ""
	}
	return r.why
}

// sample is the shortest frame among many that is decided by each rule in each shape.
func sample() map[corpusKey][]byte {
	g := newGenerator(1)
	out := map[corpusKey][]byte{}
	for range 50_000 {
		frame := g.frame()
		for shape, v := range corpusShapes {
			key := corpusKey{decides(frame, v), shape}
			if had, there := out[key]; !there || len(frame) < len(had) {
				out[key] = frame
			}
		}
	}
	for shape := range corpusShapes {
		delete(out, corpusKey{"", shape})
	}
	return out
}

// The committed corpus has a frame for every rule of the reference. SYNWARD_TEST_UPDATE=1 writes it anew.
func TestCorpusHoldsEveryRule(t *testing.T) {
	for key, frame := range sample() {
		want := corpusShapes[key.shape]
		if os.Getenv(updateVariable) == "1" {
			text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\nuint32(%d)\n", frame, uint32(want))
			if err := os.WriteFile(key.file(), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		b, err := os.ReadFile(key.file())
		if err != nil {
			t.Errorf("%v; %s=1 writes the corpus anew", err, updateVariable)
			continue
		}
		committed, v, err := parseCorpus(string(b))
		if err != nil {
			t.Errorf("%s: %v", key.file(), err)
			continue
		}
		if got := decides(committed, v); got != key.rule || v != want {
			t.Errorf("%s: variant %d is decided by %q, want %d by %q", key.file(), v, got, want, key.rule)
		}
	}
}

// parseCorpus reads a file of Go's fuzzer that holds a frame and a variant.
func parseCorpus(text string) ([]byte, variant, error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) != 3 {
		return nil, 0, fmt.Errorf("%d lines, want 3", len(lines))
	}
	frame, err := strconv.Unquote(strings.TrimSuffix(strings.TrimPrefix(lines[1], "[]byte("), ")"))
	if err != nil {
		return nil, 0, fmt.Errorf("read frame: %w", err)
	}
	v, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(lines[2], "uint32("), ")"), 10, 32)
	return []byte(frame), variant(v), err
}
