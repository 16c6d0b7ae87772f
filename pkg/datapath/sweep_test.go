// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"pgregory.net/rapid"
)

// The sweep leaves alone what owes something or is young, raises what is old, never above now, and
// keeps whose slot it is.
func TestSweepOnlyRaisesWhatIsIdle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := rapid.Uint64().Draw(t, "now")
		stale := rapid.Uint64Range(1, 1<<38).Draw(t, "stale")
		slot := rapid.Uint64().Draw(t, "slot")
		next, idle := swept(slot, now, stale)
		ahead := (slot - now) & slotTAT
		behind := (now - slot) & slotTAT
		if want := ahead > stale && behind > sweepAge; idle != want { // also if it is nobody's
			t.Fatalf("idle %v, want %v", idle, want)
		}
		if !idle {
			if next != slot {
				t.Fatalf("a slot in use became %x", next)
			}
			return
		}
		if next&slotTag != slot&slotTag || next&slotBorrowed != 0 {
			t.Fatalf("%x became somebody else's or a borrower's: %x", slot, next)
		}
		if left := (now - next) & slotTAT; left > behind || left != sweepAge {
			t.Fatalf("%x lies %d behind now, before %d", next, left, behind)
		}
	})
}

// A slot that was left alone for almost once around the clock is no debt after a sweep.
func TestSweepPreventsTheWrap(t *testing.T) {
	t.Run("of a key", func(t *testing.T) { sweepThroughWraps(t, 7<<41|1000) })
	t.Run("of nobody", func(t *testing.T) { sweepThroughWraps(t, 1000) })
}

func sweepThroughWraps(t *testing.T, slot uint64) {
	t.Helper()
	const stale = 1 << 20
	for now := uint64(1000); now < 1000+3*(slotTAT+1); now += (slotTAT + 1) / 3 {
		slot, _ = swept(slot, now, stale)
		for late := uint64(0); late < (slotTAT+1)/3; late += (slotTAT + 1) / 999 {
			l := limiterLimit{Stale: stale}
			if now+late > 2000 && level(&l, slot, now+late) != 0 {
				t.Fatalf("at %d the slot %x owes %d", now+late, slot, level(&l, slot, now+late))
			}
		}
	}
}
