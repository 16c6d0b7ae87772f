// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
)

// Detach takes the limiter off one interface of the caller's namespace and reports whether it was
// there. The last one out removes every pin.
func Detach(dir, ifname string) (found bool, err error) {
	names, err := detach(pinDir(dir), false, func(at attachment, own uint64) bool {
		return at.key.cookie == own && at.currentName() == ifname
	})
	return len(names) > 0, err
}

// DetachAll takes the limiter off every interface, in whatever namespace, and returns their names. It
// needs only the links and programs: damaged maps, or those of another version, do not stop it.
func DetachAll(dir string) (names []string, err error) {
	return detach(pinDir(dir), true, func(attachment, uint64) bool { return true })
}

// currentName follows a rename; an interface that is gone keeps the name it had. The caller is
// inside the attachment's namespace.
func (at attachment) currentName() string {
	if nl := at.device(); nl != nil {
		return nl.Attrs().Name
	}
	return at.record.name()
}

func detach(dir pinDir, everything bool, match func(at attachment, own uint64) bool) (names []string, err error) {
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
	if err == nil {
		defer i.Close()
		return i.detach(own, match)
	}
	defer l.release()
	switch there, broken := dir.exists(); {
	case broken != nil || errors.Is(err, ErrNotAttached) && !there:
		return nil, broken
	case errors.Is(err, ErrNotAttached):
		return nil, dir.removeLeftovers()
	case everything:
		return dir.tearDown(own)
	default:
		return nil, err
	}
}

// tearDown takes down what has no usable maps, by its links and programs alone.
func (d pinDir) tearDown(own uint64) (names []string, err error) {
	keys, err := d.attachments()
	if err != nil {
		return nil, err
	}
	i := &Instance{dir: d}
	for _, k := range keys {
		at := attachment{key: k, slot: uint32(limiterAbiMAX_INTERFACES), dir: d}
		if err := i.dropWhereItIs(at, own); err != nil {
			return names, err
		}
		names = append(names, fmt.Sprintf("interface %d", k.ifindex))
	}
	return names, d.removeLeftovers()
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
		if err := i.detachConns(); err != nil {
			return names, err
		}
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
		// Nobody can reach the filter any more, and if the namespace is gone it is, too.
		return i.forgetAttachment(at)
	}
	return inNetns(ns.path, func() error { return i.drop(at) })
}
