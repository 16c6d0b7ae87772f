// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// countsConns: some hook of connections is pinned.
func (d pinDir) countsConns() bool {
	for _, h := range connHooks() {
		if _, err := os.Lstat(d.connLink(h)); err == nil {
			return true
		}
	}
	return false
}

// tryConns finds out whether this kernel takes the programs of connections, if they will be needed.
func (h *heir) tryConns() error {
	if !h.from.dir.countsConns() {
		return nil
	}
	programs := map[string]bool{connsProgSynwardSeed: true}
	for _, hook := range connHooks() {
		programs[hook.program] = true
	}
	for name := range programs {
		prog, err := h.maps.loadConns(name, connSettings{})
		if err != nil {
			return fmt.Errorf("count connections: %w", err)
		}
		if err := prog.Close(); err != nil {
			return err
		}
	}
	return nil
}

// carryConns begins to count connections on new maps: what is open is counted there from the sockets, while the old
// hooks still refuse by what they counted. Then it takes those off. No place is free in between that was not before.
func carryConns(old, new *pinnedMaps) error {
	if !old.dir.countsConns() {
		return nil
	}
	if new.abi != uint32(limiterAbiABI_VERSION) {
		return errOtherFinishes
	}
	m, err := openMaps(new.dir)
	if err != nil {
		return err
	}
	i, err := newInstance(new.dir, nil, m)
	if err != nil {
		return err
	}
	defer i.release()
	if err := i.takeUpConns(); err != nil {
		return err
	}
	return old.dir.detachConns()
}

// takeUpConns counts what is open under every policy that may be in force.
func (i *Instance) takeUpConns() error {
	if i.featuresNeeded()&handshakeFeatures == 0 {
		return nil
	}
	if err := i.attachConns(); err != nil {
		return err
	}
	for _, generation := range i.live().generations() {
		slot := slotOfGeneration(generation)
		if i.control.Policies[slot].Features&concurrentFeature == 0 {
			continue
		}
		if err := i.seedConns(slot, false); err != nil {
			return err
		}
	}
	return i.settleConns()
}

// upgradeConns gives the hooks of connections the programs of this version. None is missed for a moment: of the two
// that see state changes one is always there, and the gate is replaced in its link.
func (i *Instance) upgradeConns() error {
	if i.connTrouble() != "" {
		return nil // nothing is counted; what was there by half, tidy has made whole
	}
	control, err := i.connControl()
	if err != nil {
		return err
	}
	for _, h := range connHooks() {
		if err := i.upgradeConnHook(h, control.Epoch); err != nil {
			return fmt.Errorf("count connections: %w", err)
		}
	}
	return nil
}

func (i *Instance) upgradeConnHook(h connHook, epoch uint64) error {
	prog, err := i.maps.loadConns(h.program, connSettings{epoch: epoch, runner: h.runner})
	if err != nil {
		return err
	}
	defer prog.Close()
	l, err := link.LoadPinnedLink(i.dir.connLink(h), nil)
	if err != nil {
		return fmt.Errorf("open hook %s: %w", h.pin, err)
	}
	defer l.Close()
	same, err := runsCode(l, prog)
	if err != nil || same {
		return err
	}
	return i.putConnProgram(h, epoch, prog)
}

// putConnProgram puts another program on a hook that is there.
func (i *Instance) putConnProgram(h connHook, epoch uint64, prog *ebpf.Program) error {
	l, err := link.LoadPinnedLink(i.dir.connLink(h), nil)
	if err != nil {
		return fmt.Errorf("open hook %s: %w", h.pin, err)
	}
	defer l.Close()
	if h.program != connsProgSynwardGate {
		return i.replaceConnLink(h, epoch, l, prog)
	}
	if err := l.Update(prog); err != nil {
		return fmt.Errorf("update hook %s: %w", h.pin, err)
	}
	return nil
}

// replaceConnLink puts a new link in the place of a pinned one, as a tracing link cannot be updated. Meanwhile
// another copy sees what happens, with the notes of the seed, which does not run now: what one copy has counted the
// others leave alone. Killed in between, the next command that writes counts anew.
func (i *Instance) replaceConnLink(h connHook, epoch uint64, old link.Link, prog *ebpf.Program) error {
	between, err := i.maps.loadConns(h.program, connSettings{epoch: epoch, runner: limiterConnRunnerCONN_SEED})
	if err != nil {
		return err
	}
	defer between.Close()
	cover, err := hookConns(h, between)
	if err != nil {
		return err
	}
	defer cover.Close()
	if err := errors.Join(old.Unpin(), old.Close()); err != nil {
		return fmt.Errorf("remove hook %s: %w", h.pin, err)
	}
	fresh, err := hookConns(h, prog)
	if err != nil {
		return err
	}
	defer fresh.Close()
	if err := fresh.Pin(i.dir.connLink(h)); err != nil {
		return fmt.Errorf("pin hook %s: %w", h.pin, err)
	}
	return nil
}

// runsCode compares the program of a link with another.
func runsCode(l link.Link, prog *ebpf.Program) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("read link: %w", err)
	}
	running, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return false, fmt.Errorf("open program: %w", err)
	}
	defer running.Close()
	return sameTag(running, prog)
}
