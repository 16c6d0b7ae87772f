// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
)

// What cannot be carried over is refused before anything is touched, in one line that says what and the way out.
func TestUpgradeRefuses(t *testing.T) {
	nothing := func() {}
	other := otherSynward(t)
	for name, row := range map[string]struct {
		spoil func(t *testing.T, l *upgradeLab) (undo func())
		says  string
	}{
		"no layout": {func(t *testing.T, l *upgradeLab) func() {
			datapath.SpoilLayout(t, l.pinDir, nil)
			return nothing
		}, "layout"},
		"a layout of noise": {func(t *testing.T, l *upgradeLab) func() {
			datapath.SpoilLayout(t, l.pinDir, []byte("noise and nothing else"))
			return nothing
		}, "layout"},
		"half a layout": {func(t *testing.T, l *upgradeLab) func() {
			own := datapath.OwnLayout(t)
			datapath.SpoilLayout(t, l.pinDir, own[:len(own)/2])
			return nothing
		}, "layout"},
		// Read as another field, and nothing was hit yet: what is to be moved at the end is looked for before.
		"hits under another name": {func(t *testing.T, l *upgradeLab) func() {
			datapath.SpoilLayout(t, l.pinDir, bytes.Replace(datapath.OwnLayout(t), []byte("\x00hits\x00"), []byte("\x00hitz\x00"), 1))
			return nothing
		}, "hits"},
		"a policy that it cannot read": {func(t *testing.T, l *upgradeLab) func() {
			var undo func(*datapath.Instance) error
			l.change(func(i *datapath.Instance) error {
				undo = i.KeepText(t, 40, `{"Mode":"enforce","Dance":true}`)
				return nil
			})
			return func() { l.change(undo) }
		}, "Dance"},
		"somebody else's program": {func(t *testing.T, l *upgradeLab) (undo func()) {
			l.read(func(i *datapath.Instance) error {
				undo = i.ForeignProgram(t)
				return nil
			})
			return undo
		}, "somebody_else"},
		"a BPF file system that takes no pins": {func(t *testing.T, l *upgradeLab) func() {
			mount := filepath.Dir(l.pinDir)
			remount := func(flags uintptr) {
				if err := unix.Mount("", mount, "", unix.MS_REMOUNT|flags, "mode=0700"); err != nil {
					t.Fatal(err)
				}
			}
			remount(unix.MS_RDONLY)
			return func() { remount(0) }
		}, "read-only"},
		"a map that no layout knows": {func(t *testing.T, l *upgradeLab) func() {
			maps := filepath.Join(l.pinDir, "maps")
			if err := os.Link(filepath.Join(maps, "locals"), filepath.Join(maps, "tomorrows")); err != nil {
				t.Fatal(err)
			}
			return nothing
		}, "tomorrows"},
		"an unknown hook": {func(t *testing.T, l *upgradeLab) func() {
			links := filepath.Join(l.pinDir, "links")
			if err := os.Link(filepath.Join(l.pinDir, "maps", "locals"), filepath.Join(links, "1-2-egress")); err != nil {
				t.Fatal(err)
			}
			return nothing
		}, "1-2-egress"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newUpgradeLab(t, other, upgradeModes()["native"])
			undo := row.spoil(t, l)
			_, stderr, code := l.run("upgrade")
			undo()
			if code != 5 || !strings.Contains(stderr, row.says) || !strings.Contains(stderr, "detach --all") || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit code %d, %s", code, stderr)
			}
			before := tally{}
			l.send(l.frames())
			l.since(before, uint64(len(l.frames())))
			l.mustAddUp()
		})
	}
}

// The same of what this version finds in the maps of the other.
func TestDowngradeRefuses(t *testing.T) {
	other := otherSynward(t)
	for name, row := range map[string]struct{ pin, field, says string }{
		"a field of an entry":   {"block_hosts", "added_by_another_abi", "block_hosts: field added_by_another_abi"},
		"a field of the ledger": {"sources", "added_by_another_abi", "ledger: field added_by_another_abi"},
		"a reason":              {"counters", datapath.FieldOfReason(9), "REASON_OF_ANOTHER_ABI"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newUpgradeLab(t, other, upgradeModes()["native"])
			l.send(l.frames())
			before := l.remember()
			l.mustRun("upgrade")
			undo := datapath.SetField(t, l.pinDir, row.pin, row.field, 1)
			err := l.Server.Do(func() error { _, err := datapath.Upgrade(l.pinDir); return err })
			if !errors.Is(err, datapath.ErrRefused) || !strings.Contains(err.Error(), row.says) || !strings.Contains(err.Error(), "detach --all") {
				t.Errorf("downgrade: %v", err)
			}
			l.mustRun("block", "add", "198.18.99.99")
			undo()
			l.upgradeHere()
			l.change(func(i *datapath.Instance) error {
				_, err := i.Remove(datapath.Block, []netip.Prefix{netip.MustParsePrefix("198.18.99.99/32")})
				return err
			})
			l.mustRemember(before)
		})
	}
}

// A policy that waits for its confirmation goes on waiting: the other version can confirm it, or the data path of
// the other version goes back by itself.
func TestUpgradeCarriesAPendingPolicy(t *testing.T) {
	apply := func(l *upgradeLab, confirm time.Duration) {
		l.change(func(i *datapath.Instance) error {
			p := parsePolicy(l.t, strings.Replace(upgradePolicy(), "burst: 5", "burst: 4", 1)+"mode: observe\n")
			return i.Apply(datapath.ApplyOptions{Policy: p, Confirm: confirm, By: "eve"})
		})
	}
	other := otherSynward(t)
	t.Run("confirm", func(t *testing.T) {
		l := newUpgradeLab(t, other, upgradeModes()["native"])
		apply(l, time.Hour)
		before := l.remember()
		l.thereAndBack()
		l.mustRemember(before)
		l.mustRun("upgrade")
		l.mustRun("confirm")
		l.upgradeHere()
		if after := l.remember(); after.Pending || after.Generation != before.Generation || len(after.Kept) != len(before.Kept) {
			t.Errorf("after confirm: generation %d, pending %v, %d kept; before it was %d and %d", after.Generation, after.Pending, len(after.Kept), before.Generation, len(before.Kept))
		}
	})
	t.Run("rollback by itself", func(t *testing.T) {
		l := newUpgradeLab(t, other, upgradeModes()["native"])
		before := l.remember()
		apply(l, 3*time.Second)
		end := time.Duration(datapath.ReadControlWord(t, l.pinDir).Deadline) * time.Second
		l.mustRun("upgrade")
		l.waitUntil(end + datapath.Tick())
		l.upgradeHere()
		l.mustRemember(before)
	})
}

// The same maps: programs of other code are swapped, and those that are the same are left.
func TestUpgradeSwapsPrograms(t *testing.T) {
	eachUpgradeMode(t, func(t *testing.T, l *upgradeLab) {
		before := l.remember()
		l.change(func(i *datapath.Instance) error {
			i.AgePrograms(t)
			return nil
		})
		s := l.startStream(l.frames())
		for n, swapped := range []bool{true, false} {
			done := l.upgradeHere()
			if len(done.Interfaces) != 2 || done.From != done.To {
				t.Fatalf("upgrade: %+v", done)
			}
			for _, one := range done.Interfaces {
				if one.Swapped != swapped || one.Why != "" {
					t.Errorf("upgrade %d: %+v, want swapped %v", n+1, one, swapped)
				}
			}
		}
		sent := s.stop()
		l.since(tally{}, sent)
		l.mustRemember(before)
		l.mustAddUp()
	})
}
