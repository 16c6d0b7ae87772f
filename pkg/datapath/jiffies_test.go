// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/synward/synward/pkg/internal/testenv"
)

// Time by jiffies is the precise clock cut to a tick: never ahead of it by more than it takes to read both, never a
// tick and a half behind, measured anew or not.
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
	wrong, seen := 0, 0
	for now := first; now.Jiffies < first.Jiffies+25; seen++ {
		now, err = read.sample()
		must(t, err)
		behind := time.Duration(int64(now.Ns - now.Jiffies*uint64(tick) - offset))
		if behind < -time.Millisecond || behind > tick+tick/2 {
			wrong++
		}
	}
	// A tick may come late where a hypervisor takes the CPU away.
	if wrong > seen/20 {
		t.Errorf("%d of %d times were more than a tick and a half behind, or ahead", wrong, seen)
	}
}
