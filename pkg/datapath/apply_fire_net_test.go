// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"os"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

// While two policies that have next to nothing in common take turns 200 times under a stream of SYNs, each
// SYN is judged by one of them as a whole, none by neither, and the burst of the limit that both have is
// given once.
func TestApplyUnderFire(t *testing.T) {
	const burst = 5
	applies := 200
	switch {
	case os.Getenv("SYNWARD_VM") != "":
		applies = 20 // each takes ten times as long there
	case slowly:
		applies = 60
	}
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		t.Parallel() // an apply mostly waits for the kernel
		d := newDuel(t, mode, firstPolicy, secondPolicy)
		before := d.tally()
		s := d.startStream(d.frames)
		begin := time.Now()
		for n := range applies {
			d.apply((n + 1) % 2)
		}
		took := time.Since(begin)
		sent := s.stop()
		got := d.since(before, sent)
		t.Logf("%d applies in %v, %d packets: %v", applies, took, sent, got)
		d.mustBePure(got, burst, sent/100)
		d.mustHaveJudgedAll()
		d.mustBeWhole(0)
		d.apply(1)
		d.mustBeWhole(1)
		d.change(func(i *datapath.Instance) error {
			p, err := i.Policy()
			if int(p.Generation) < applies {
				t.Errorf("after %d applies the policy has generation %d", applies, p.Generation)
			}
			return err
		})
	})
}
