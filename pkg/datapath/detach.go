// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
)

// Detach takes the limiter off one interface of the caller's namespace and reports whether it was
// there. The last one out removes every pin.
func Detach(dir, ifname string) (found bool, err error) {
	names, err := detach(pinDir(dir), func(at attachment, own uint64) bool {
		return at.key.cookie == own && at.currentName() == ifname
	})
	return len(names) > 0, err
}

// DetachAll takes the limiter off every interface, in whatever namespace, and returns their names.
func DetachAll(dir string) (names []string, err error) {
	return detach(pinDir(dir), func(attachment, uint64) bool { return true })
}

// currentName follows a rename; an interface that is gone keeps the name it had. The caller is
// inside the attachment's namespace.
func (at attachment) currentName() string {
	if nl := at.device(); nl != nil {
		return nl.Attrs().Name
	}
	return at.record.name()
}

func detach(dir pinDir, match func(at attachment, own uint64) bool) (names []string, err error) {
	if err := requirePrivilege(); err != nil {
		return nil, err
	}
	own, err := netnsCookie()
	if err != nil {
		return nil, err
	}
	l, err := takeLock(dir, true)
	if err != nil {
		return nil, err
	}
	i, err := openLocked(dir, l)
	if err != nil {
		defer l.release()
		if !errors.Is(err, ErrNotAttached) {
			return nil, err
		}
		return nil, dir.removeLeftovers()
	}
	defer i.Close()
	return i.detach(own, match)
}

// removeLeftovers takes away what a killed attach or detach left: maps that no program uses.
func (d pinDir) removeLeftovers() error {
	return errors.Join(d.remove(), d.staging().remove())
}

func (i *Instance) detach(own uint64, match func(at attachment, own uint64) bool) (names []string, err error) {
	if err := i.dir.sweep(); err != nil {
		return nil, err
	}
	all, err := i.attached()
	if err != nil {
		return nil, err
	}
	left := 0
	for _, at := range all {
		if !match(at, own) {
			left++
			continue
		}
		names = append(names, at.record.name())
		if err := i.dropWhereItIs(at, own); err != nil {
			return names, err
		}
	}
	if left == 0 {
		return names, i.dir.removeLeftovers()
	}
	return names, nil
}

// dropWhereItIs enters the attachment's namespace for a filter; a link needs only its pin removed.
func (i *Instance) dropWhereItIs(at attachment, own uint64) error {
	if at.key.hook != hookClsact || at.key.cookie == own {
		return i.drop(at)
	}
	ns, ok := findNetns(map[uint64]bool{at.key.cookie: true})[at.key.cookie]
	if !ok {
		return fmt.Errorf("interface %s is in a network namespace that cannot be found; run detach inside it", at.record.name())
	}
	return inNetns(ns.path, func() error { return i.drop(at) })
}
