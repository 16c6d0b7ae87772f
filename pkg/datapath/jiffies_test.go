// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/synward/synward/pkg/internal/testenv"
)

// Time by jiffies is the precise clock cut to a tick: never ahead of it by more than it takes to read both, and
// where nothing takes the CPU away less than a tick and a half behind.
func TestJiffiesTellTheTime(t *testing.T) {
	testenv.RequireRoot(t)
	tick := clockTick()
	read, err := newJiffiesReader()
	must(t, err)
	defer read.close()
	// A host that takes an emulated CPU away moves one clock and not the other, once: not three times in a row.
	// A host that takes an emulated CPU away moves one clock and not the other, for some rounds: not for all.
	const rounds = 30
	for n := range rounds {
		offset, ok, err := measureJiffies(tick)
		must(t, err)
		if !ok {
			t.Logf("round %d: jiffies do not go with the clock; the data path would ask the coarse clock, which costs a call", n)
			continue
		}
		ahead, late, seen := compareJiffies(t, read, tick, offset)
		if ahead == 0 && late <= seen/2 {
			return
		}
		t.Logf("round %d: of %d times %d were ahead, %d more than a tick and a half behind", n, seen, ahead, late)
	}
	t.Errorf("in %d of %d rounds the clocks do not agree", rounds, rounds)
}

// compareJiffies counts for 25 ticks how often jiffies are ahead of the precise clock, and far behind it.
func compareJiffies(t *testing.T, read *jiffiesReader, tick time.Duration, offset uint64) (ahead, late, seen int) {
	t.Helper()
	first, err := read.sample()
	must(t, err)
	for now := first; now.Jiffies < first.Jiffies+25; seen++ {
		now, err = read.sample()
		must(t, err)
		behind := time.Duration(int64(now.Ns - now.Jiffies*uint64(tick) - offset))
		switch {
		case behind < -time.Millisecond:
			ahead++
		case behind > tick+tick/2:
			late++
		}
	}
	return ahead, late, seen
}
