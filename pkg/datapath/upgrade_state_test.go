// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
)

// What tests of upgrades may know of the inside.

// AttachByClsact attaches as on a kernel that has no tcx.
func AttachByClsact(dir, ifname string) (err error) {
	d := pinDir(dir)
	nl, err := netlink.LinkByName(ifname)
	if err != nil {
		return err
	}
	cookie, err := netnsCookie()
	if err != nil {
		return err
	}
	l, err := takeLock(d, true)
	if err != nil {
		return err
	}
	i, _, err := openOrCreate(d, l)
	if err != nil {
		l.release()
		return err
	}
	a := &attacher{Instance: i, opts: AttachOptions{PinDir: dir, Interface: ifname}, nl: nl, cookie: cookie}
	return errors.Join(a.tryHook(ModeTC, hookClsact), i.Close())
}

// UpgradeLeft says how far a killed upgrade came.
func UpgradeLeft(t *testing.T, dir string) string {
	t.Helper()
	suffix, err := pinDir(dir).unfinished()
	if err != nil {
		t.Fatal(err)
	}
	staging, err := filepath.Glob(dir + stagingMark + "*")
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case suffix != "":
		return "behind the commit"
	case len(staging) > 0:
		return "pins made"
	}
	return "nothing to see"
}
