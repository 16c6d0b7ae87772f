// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
)

// finishUpgrade does what an upgrade has to do after its commit, and removes what one left that was killed before
// it. Both directories are read by their layouts, so that either version can do it. Each step may be done again.
func (d pinDir) finishUpgrade() (finished bool, err error) {
	if there, err := d.exists(); err != nil || !there {
		return false, err
	}
	suffix, err := d.unfinished()
	if err != nil {
		return false, err
	}
	if suffix == "" {
		return false, d.removeStaging()
	}
	old := d + pinDir(stagingMark+suffix)
	if there, err := old.exists(); err != nil {
		return false, err
	} else if there {
		if err := carryRest(old, d); err != nil {
			return false, fmt.Errorf("finish upgrade: %w", err)
		}
	}
	if err := os.Remove(filepath.Join(d.maps(), pinFrom+suffix)); err != nil {
		return false, fmt.Errorf("finish upgrade: %w", err)
	}
	return true, d.removeStaging()
}

// unfinished is the end of the name of the directory from which not all has been carried over yet.
func (d pinDir) unfinished() (suffix string, err error) {
	entries, err := os.ReadDir(d.maps())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("list pins: %w", err)
	}
	for _, e := range entries {
		if rest, ok := strings.CutPrefix(e.Name(), pinFrom); ok {
			return rest, nil
		}
	}
	return "", nil
}

// carryRest gives every hook the program that is pinned for it in new, has connections counted there, waits until no program counts in the old
// maps any more, and moves what was counted there.
func carryRest(old, new pinDir) error {
	from, err := openPinned(old)
	if err != nil {
		return err
	}
	defer from.close()
	to, err := openPinned(new)
	if err != nil {
		return err
	}
	defer to.close()
	if err := swapHooks(old, new); err != nil {
		return err
	}
	if err := carryConns(from, to); err != nil {
		return err
	}
	if err := waitForPrograms(); err != nil {
		return err
	}
	return moveCounts(from, to)
}

// swapHooks goes by the pins alone.
func swapHooks(old, new pinDir) error {
	keys, err := new.attachments()
	if err != nil {
		return err
	}
	var errs []error
	for _, k := range keys {
		for _, at := range (attachment{key: k, dir: new}).hooks() {
			if err := swapHook(at, old); err != nil && !errors.Is(err, errNetnsGone) {
				errs = append(errs, fmt.Errorf("interface %d: %w", k.ifindex, err))
			}
		}
	}
	return errors.Join(errs...)
}

// swapHook leaves a hook alone that runs what neither version pinned.
func swapHook(at attachment, old pinDir) error {
	running, err := at.hookProgram()
	if err != nil {
		return err
	}
	if !old.programs(at.key.String())[running] {
		return nil
	}
	prog, err := ebpf.LoadPinnedProgram(at.dir.prog(at.key), nil)
	if err != nil {
		return fmt.Errorf("open program: %w", err)
	}
	defer prog.Close()
	return at.updateHook(prog)
}
