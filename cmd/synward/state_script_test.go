// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"
)

// reboot needs the script's bpffs to be its own: with it go the pins, and with those links, programs and maps. A filter
// of clsact, where there is no tcx, lasts as long as its qdisc.
func reboot(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: reboot")
	}
	dir := ts.Getenv("BPFFS")
	ts.Check(syscall.Unmount(dir, syscall.MNT_DETACH))
	ts.Check(syscall.Mount("bpffs", dir, "bpf", 0, "mode=0700"))
	ts.Check(inside(ts.Getenv("SERVER"), func() error { return removeClsact(ts.Getenv("SERVER_IF")) }))
}

func removeClsact(ifname string) error {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return err
	}
	qdiscs, err := netlink.QdiscList(link)
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			err = errors.Join(err, netlink.QdiscDel(q))
		}
	}
	return err
}

func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: damage DIR")
	}
	names, err := filepath.Glob(filepath.Join(args[0], "state-*.json"))
	ts.Check(err)
	newest, number := "", -1
	for _, name := range names {
		n := 0
		if _, err := fmt.Sscanf(filepath.Base(name), "state-%d.json", &n); err == nil && n > number {
			newest, number = name, n
		}
	}
	content, err := os.ReadFile(newest)
	ts.Check(err)
	content[len(content)/2] ^= 1
	ts.Check(os.WriteFile(newest, content, 0o600))
}
