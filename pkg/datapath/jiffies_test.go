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
	offset, ok, err := measureJiffies(tick)
	must(t, err)
	if !ok {
		t.Fatal("jiffies do not go with the clock on this kernel; the data path would ask the coarse clock, which costs a call")
	}
	read, err := newJiffiesReader()
	must(t, err)
	defer read.close()
	first, err := read.sample()
	must(t, err)
	ahead, late, seen := 0, 0, 0
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
	if ahead > 0 || late > seen/2 {
		t.Errorf("of %d times %d were ahead, %d more than a tick and a half behind", seen, ahead, late)
	}
}
