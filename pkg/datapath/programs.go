// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// A program is specialised: what no policy in force needs is compiled out. A policy that needs more swaps
// another in, by an update of the link, so that no packet passes between the two.

// widenPrograms gives every attachment a program that also does what these features need.
func (i *Instance) widenPrograms(features uint32) error {
	return i.eachProgram(func(at attachment) error {
		if features&^at.record.Features == 0 && (at.egressFits(features) || !needsEgress(features)) {
			return nil
		}
		return i.replaceProgram(at, at.record.Features|features, at.record.ObserveAfter)
	})
}

// narrowPrograms leaves out again what no policy in force needs.
func (i *Instance) narrowPrograms() error {
	needed := i.featuresNeeded()
	return i.eachProgram(func(at attachment) error {
		if at.record.Features == needed && at.egressFits(needed) {
			return nil
		}
		return i.replaceProgram(at, needed, at.record.ObserveAfter)
	})
}

// confirmPrograms keeps attachments that wait for it, and says whether any did. One whose time is over
// refuses again from here on.
func (i *Instance) confirmPrograms() (found bool, err error) {
	err = i.eachProgram(func(at attachment) error {
		if at.record.ObserveAfter == 0 {
			return nil
		}
		found = true
		return i.replaceProgram(at, at.record.Features, 0)
	})
	return found, err
}

// featuresNeeded is what the policy in force and the one that it may fall back to need.
func (i *Instance) featuresNeeded() uint32 {
	now := monotonicNow()
	l := i.live()
	needed := i.control.Policies[slotOfGeneration(l.inForce(now))].Features
	if l.pending(now) {
		needed |= i.control.Policies[slotOfGeneration(l.fallback)].Features
	}
	return needed
}

// eachProgram visits the attachments whose hook holds our program. One that is gone is mended by attach.
func (i *Instance) eachProgram(visit func(at attachment) error) error {
	all, err := i.attached()
	if err != nil {
		return err
	}
	var errs []error
	for _, at := range all {
		// What lies in a namespace that is gone gets no packet any more.
		if err := visit(at); err != nil && !errors.Is(err, errNetnsGone) {
			errs = append(errs, fmt.Errorf("interface %s: %w", at.record.name(), err))
		}
	}
	return errors.Join(errs...)
}

// errNetnsGone: a namespace has neither a name nor a process.
var errNetnsGone = errors.New("network namespace not found")

// nextMark ends the name of a program that is about to take the place of another.
const nextMark = "-next"

// nextProgram is where a program is pinned while it takes the place of another.
func (d pinDir) nextProgram(k pinKey) string { return d.prog(k) + nextMark }

// replaceProgram swaps in programs with other features. The record never claims a feature that they may lack.
func (i *Instance) replaceProgram(at attachment, features, observeAfter uint32) error {
	f := at.record.frozen()
	f.slot, f.features, f.observeAfter = at.slot, features, observeAfter
	if err := i.writeFeatures(at, at.record.Features&features, at.record.ObserveAfter); err != nil {
		return err
	}
	if err := i.swapProgram(at, f); err != nil {
		return err
	}
	if err := i.fitEgress(at, f); err != nil {
		return err
	}
	return i.writeFeatures(at, features, observeAfter)
}

// swapProgram puts another program on one hook.
func (i *Instance) swapProgram(at attachment, f frozen) error {
	prog, err := i.maps.loadProgram(at.key.hook, f)
	if err != nil {
		return err
	}
	defer prog.Close()
	return i.swapLoaded(at, prog)
}

// swapLoaded does it with a program that is loaded. Killed in between, the pin of the next program is put right by
// repairPrograms.
func (i *Instance) swapLoaded(at attachment, prog *ebpf.Program) error {
	next := i.dir.nextProgram(at.key)
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale pin: %w", err)
	}
	if err := prog.Pin(next); err != nil {
		return fmt.Errorf("pin program: %w", err)
	}
	if err := at.updateHook(prog); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	if err := os.Rename(next, i.dir.prog(at.key)); err != nil {
		return fmt.Errorf("pin program: %w", err)
	}
	return nil
}

func (i *Instance) writeFeatures(at attachment, features, observeAfter uint32) error {
	return i.changeRecord(at.slot, func(r *limiterInterface) { r.Features, r.ObserveAfter = features, observeAfter })
}

func (i *Instance) changeRecord(slot uint32, change func(r *limiterInterface)) error {
	var record limiterInterface
	if err := i.maps.Interfaces.Lookup(slot, &record); err != nil {
		return fmt.Errorf("read interface record: %w", err)
	}
	change(&record)
	if err := i.maps.Interfaces.Put(slot, record); err != nil {
		return fmt.Errorf("write interface record: %w", err)
	}
	return nil
}

// updateHook puts prog where the attachment's program is. A link whose interface is gone keeps what it had.
func (at attachment) updateHook(prog *ebpf.Program) error {
	if at.key.hook.filter() {
		return at.insideNetns(func() error {
			nl := at.device()
			if nl == nil {
				return nil
			}
			return netlink.FilterReplace(filterFor(nl, at.key.hook, prog.FD()))
		})
	}
	l, err := link.LoadPinnedLink(at.dir.link(at.key), nil)
	if err != nil {
		return fmt.Errorf("open link: %w", err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("read link: %w", err)
	}
	if linkIfindex(info) == 0 {
		return nil
	}
	if err := l.Update(prog); err != nil {
		return fmt.Errorf("update link: %w", err)
	}
	return nil
}

// insideNetns runs f in the attachment's network namespace.
func (at attachment) insideNetns(f func() error) error {
	own, err := netnsCookie()
	if err != nil {
		return err
	}
	if at.key.cookie == own {
		return f()
	}
	ns, ok := findNetns(map[uint64]bool{at.key.cookie: true})[at.key.cookie]
	if !ok {
		return fail(errNetnsGone, "interface %s is in a network namespace that cannot be found; run the command inside it", at.record.name())
	}
	return inNetns(ns.path, f)
}

// repairPrograms finishes what a killed replaceProgram left: a program that its hook runs takes its
// place, one that it does not run goes, and so does a second hook that no policy in force needs.
func (i *Instance) repairPrograms() error {
	needed := i.featuresNeeded()
	return i.eachProgram(func(at attachment) error {
		for _, one := range at.hooks() {
			if err := i.repairHook(one); err != nil {
				return err
			}
		}
		if needsEgress(needed) {
			return nil
		}
		return i.dropEgress(at)
	})
}

func (i *Instance) repairHook(at attachment) error {
	next := i.dir.nextProgram(at.key)
	id, err := pinnedProgramID(next)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	running, err := at.hookProgram()
	if err != nil {
		return err
	}
	if running == id {
		return os.Rename(next, i.dir.prog(at.key))
	}
	return os.Remove(next)
}

// hookProgram is the program that the attachment's hook holds, 0 if none.
func (at attachment) hookProgram() (id ebpf.ProgramID, err error) {
	if at.key.hook.filter() {
		err := at.insideNetns(func() error {
			nl := at.device()
			if nl == nil {
				return nil
			}
			f, err := findFilter(nl, at.key.hook)
			if f != nil {
				id = ebpf.ProgramID(f.Id)
			}
			return err
		})
		return id, err
	}
	l, err := link.LoadPinnedLink(at.dir.link(at.key), nil)
	if err != nil {
		return 0, fmt.Errorf("open link: %w", err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("read link: %w", err)
	}
	return info.Program, nil
}
