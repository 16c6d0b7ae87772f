// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

// A full list is carried over, with the hits that come meanwhile.
func TestUpgradeOfAMillionEntries(t *testing.T) {
	entries := often(1_000_000, 50_000)
	l := newUpgradeLab(t, otherSynward(t), upgradeModes()["native"])
	first := netip.MustParseAddr("20.0.0.0")
	var had uint64
	l.change(func(i *datapath.Instance) error {
		i.FillBlocks(t, first, entries)
		had, _ = i.CountBlocks(t)
		return nil
	})
	var frames [][]byte
	for n := range 190 { // of 50,000 entries, too
		frames = append(frames, l.synFrameFrom(netip.AddrFrom4([4]byte{20, 0, byte(n), 77}).String(), 1000))
	}
	s := l.startStream(frames)
	begin := time.Now()
	l.mustRun("upgrade")
	there := time.Since(begin)
	l.upgradeHere()
	t.Logf("%d entries: there in %v, back in %v", had, there, time.Since(begin)-there)
	sent := s.stop()
	if got := l.since(tally{}, sent); got[isBlocked] != sent {
		t.Errorf("of %d packets from blocked sources so many were blocked: %v", sent, got)
	}
	l.read(func(i *datapath.Instance) error {
		if got, hits := i.CountBlocks(t); got != had || hits != sent {
			t.Errorf("%d entries with %d hits, want %d with %d", got, hits, had, sent)
		}
		return nil
	})
}
