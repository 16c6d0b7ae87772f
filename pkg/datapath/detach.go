// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"slices"
)

// DetachOptions say what to detach.
type DetachOptions struct {
	PinDir string
	// Interface of the caller's network namespace. Empty: every interface, in whatever namespace.
	Interface string
	// Keeper is told what is not to come back; nil: nobody is.
	Keeper Keeper
}

// Detached says what was done.
type Detached struct {
	// Names are the interfaces that were attached.
	Names []string
	// Dismissed were not attached, but would have been after a reboot.
	Dismissed []Place
}

// Detach takes the limiter off one interface of the caller's namespace and reports whether it was
// there. The last one out removes every pin.
func Detach(dir, ifname string) (found bool, err error) {
	done, err := DetachKept(DetachOptions{PinDir: dir, Interface: ifname})
	return len(done.Names) > 0, err
}

// DetachAll takes the limiter off every interface, in whatever namespace, and returns their names. It
// needs only the links and programs: damaged maps, or those of another version, do not stop it.
func DetachAll(dir string) (names []string, err error) {
	done, err := DetachKept(DetachOptions{PinDir: dir})
	return done.Names, err
}

// currentName follows a rename; an interface that is gone keeps the name it had. The caller is
// inside the attachment's namespace.
func (at attachment) currentName() string {
	if nl := at.device(); nl != nil {
		return nl.Attrs().Name
	}
	return at.record.name()
}

// DetachKept is Detach, or DetachAll, that tells a Keeper. ErrUnkept: it is done, and a reboot would undo it.
func DetachKept(o DetachOptions) (done Detached, err error) {
	if err := requirePrivilege(); err != nil {
		return Detached{}, err
	}
	dir := pinDir(o.PinDir)
	own, err := netnsCookie()
	if err != nil {
		return Detached{}, err
	}
	l, err := takeLock(dir, true)
	if err != nil {
		return Detached{}, err
	}
	var i *Instance
	if _, err = dir.finishUpgrade(); err == nil {
		i, err = openLocked(dir, l)
	}
	if err == nil {
		done, err = i.detach(o, own)
		return done, errors.Join(err, i.Close())
	}
	defer l.release()
	switch there, broken := dir.exists(); {
	case broken != nil || errors.Is(err, ErrNotAttached) && !there:
		err = broken
	case errors.Is(err, ErrNotAttached):
		err = dir.removeLeftovers()
	case o.Interface == "":
		done.Names, err = dir.tearDown(own)
	}
	if err != nil {
		return done, err
	}
	done.Dismissed, err = o.dismiss(nil, o.Interface == "")
	return done, err
}

// dismiss tells the keeper which interfaces go, and finds those that were not attached.
func (o DetachOptions) dismiss(gone []Place, last bool) (others []Place, err error) {
	if o.Keeper == nil {
		return nil, nil
	}
	asked := Place{Interface: o.Interface}
	if o.Interface != "" {
		var named bool
		if asked.Netns, named, err = OwnNetns(); err != nil || !named {
			asked = Place{}
		}
	}
	known, err := o.Keeper.Dismiss(func(p Place) bool {
		return o.Interface == "" || p == asked || slices.Contains(gone, p)
	}, last)
	if err != nil {
		return nil, fail(ErrUnkept, "the change was not saved, so a reboot would undo it: %w", err)
	}
	return slices.DeleteFunc(known, func(p Place) bool { return slices.Contains(gone, p) }), nil
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

func (i *Instance) detach(o DetachOptions, own uint64) (done Detached, err error) {
	if err := errors.Join(i.dir.sweep(), i.beginOther()); err != nil {
		return done, err
	}
	all, err := i.attached()
	if err != nil {
		return done, err
	}
	var going []attachment
	for _, at := range all {
		if o.Interface == "" || at.key.cookie == own && at.currentName() == o.Interface {
			going = append(going, at)
		}
	}
	last := len(going) == len(all)
	// Before the kernel lets go: killed in between, the next command finds it attached, and saves that.
	dismissed, unkept := i.dismissAttached(o, going, last)
	for _, at := range going {
		done.Names = append(done.Names, at.record.name())
		if err := i.dropWhereItIs(at, own); err != nil {
			return done, errors.Join(err, unkept)
		}
	}
	done.Dismissed = dismissed
	if last {
		if err := i.detachConns(); err != nil {
			return done, errors.Join(err, unkept)
		}
		return done, errors.Join(unkept, i.dir.removeLeftovers())
	}
	i.KeepWith(o.Keeper)
	return done, unkept
}

func (i *Instance) dismissAttached(o DetachOptions, gone []attachment, last bool) ([]Place, error) {
	if o.Keeper == nil {
		return nil, nil
	}
	attached, _, err := i.Attached()
	if err != nil {
		return nil, err
	}
	var places []Place
	for _, a := range attached {
		if slices.ContainsFunc(gone, func(at attachment) bool { return at.key == a.key }) {
			places = append(places, a.Place)
		}
	}
	return o.dismiss(places, last)
}

// dropWhereItIs enters the attachment's namespace for a filter; a link needs only its pin removed.
func (i *Instance) dropWhereItIs(at attachment, own uint64) error {
	filter := slices.ContainsFunc(at.hooks(), func(one attachment) bool { return one.key.hook.filter() })
	if !filter || at.key.cookie == own {
		return i.drop(at)
	}
	ns, ok := findNetns(map[uint64]bool{at.key.cookie: true})[at.key.cookie]
	if !ok {
		// Nobody can reach the filter any more, and if the namespace is gone it is, too.
		return i.forgetAttachment(at)
	}
	return inNetns(ns.path, func() error { return i.drop(at) })
}
