// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"testing"

	"github.com/synward/synward/pkg/datapath"
)

// An apply that finds no room for the text when all else is written: the policy before is in force, whole, and
// of what was written nothing is left once the next one is.
func TestApplyThatFailsHalfway(t *testing.T) {
	d := newDuel(t, datapath.ModeNative, firstPolicy, secondPolicy)
	d.useUpThird()
	before := d.tally()
	s := d.startStream(d.frames)
	d.change(func(i *datapath.Instance) error {
		free := i.FillTexts(t)
		err := i.Apply(datapath.ApplyOptions{Policy: d.policies[1], By: "test"})
		if !errors.Is(err, datapath.ErrFull) {
			t.Errorf("apply without room: %v, want ErrFull", err)
		}
		free()
		return nil
	})
	sent := s.stop()
	d.mustBePure(d.since(before, sent), 0, 0)
	d.mustBeWhole(0)
	for _, n := range []int{0, 1} {
		d.apply(n)
		d.mustBeWhole(n)
		d.mustLeaveNothing()
	}
}

func (b *bench) mustLeaveNothing() {
	b.t.Helper()
	b.read(func(i *datapath.Instance) error {
		left, err := datapath.Leftovers(i)
		if len(left) > 0 {
			b.t.Errorf("left over: %v", left)
		}
		return err
	})
}

// useUpThird takes the burst that a duel leaves.
func (d *duel) useUpThird() {
	d.t.Helper()
	frame := d.synFrameFrom("198.18.40.1", 1006)
	if got := d.judged(frame, frame, frame, frame, frame, frame); got[isUnder] != 5 || got[isOverNew] != 1 {
		d.t.Fatalf("a burst of 5 ended as %v", got)
	}
}
