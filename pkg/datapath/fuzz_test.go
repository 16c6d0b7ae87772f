// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"
)

// How long the random tests run, in seconds (default 5), and where their frames come from: the same seed
// makes the same frames.
const (
	fuzzSecondsVariable = "SYNWARD_TEST_FUZZ_SECONDS"
	fuzzSeedVariable    = "SYNWARD_TEST_SEED"
)

func fuzzTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(fuzzSecondsVariable)
	if text == "" {
		return 5 * time.Second
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatalf("%s=%s: %v", fuzzSecondsVariable, text, err)
	}
	return time.Duration(seconds * float64(time.Second))
}

func fuzzSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv(fuzzSeedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s=%s: %v", fuzzSeedVariable, text, err)
		}
	}
	t.Logf("%s=%d", fuzzSeedVariable, seed)
	return seed
}

// reproduction is a difference as a file of the corpus shows it.
func reproduction(frame []byte, v variant) string {
	return fmt.Sprintf("go test fuzz v1\n[]byte(%q)\nuint32(%d)\nhex %x", frame, uint32(v), frame)
}

// The program and the reference judge every frame alike: reason, action, verdict, bytes, and the source
// in the meters and in the ledger.
func TestDifferential(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l := newFuzzLab(t)
	g := newGenerator(fuzzSeed(t))
	rules := map[string]int{}
	frames, differences := 0, 0
	begin, limit := time.Now(), fuzzTime(t)
	for frames%256 != 0 || time.Since(begin) < limit {
		frame, v := g.frame(), variant(g.Uint32())
		if g.oneIn(2) {
			v &= 0xff | general // in one buffer
		}
		frames++
		want, err := l.compare(frame, v)
		if err != nil && !errors.Is(err, errNoVerdict) {
			t.Errorf("frame %d, after %v, by the reference %s: %v\n%s", frames, time.Since(begin), want.why, err, reproduction(frame, v))
			if differences++; differences == 5 {
				break
			}
		}
		rules[want.why]++
	}
	rate := float64(frames) / time.Since(begin).Seconds()
	t.Logf("%d frames, each judged twice, %.0f frames a second", frames, rate)
	for _, rule := range slices.Sorted(maps.Keys(rules)) {
		t.Logf("%9d %s", rules[rule], rule)
	}
}

// FuzzDifferential is the same, for Go's fuzzer: a frame and a variant.
func FuzzDifferential(f *testing.F) {
	l := newFuzzLab(f)
	f.Fuzz(func(t *testing.T, frame []byte, number uint32) {
		if len(frame) < 14 || len(frame) > longestFuzzed {
			return
		}
		for _, v := range []variant{variant(number), variant(number) ^ general} {
			want, err := l.compare(frame, v)
			if err != nil && !errors.Is(err, errNoVerdict) {
				t.Errorf("by the reference %s: %v\n%s", want.why, err, reproduction(frame, v))
			}
		}
	})
}
