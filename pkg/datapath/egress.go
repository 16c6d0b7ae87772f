// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// Where a limit counts what is sent, an attachment has a second hook, at egress. It has the same life: pins of its
// own, a program with the same features, swapped with the first one's. It goes when no policy in force needs it.

func needsEgress(features uint32) bool {
	return features&uint32(limiterFeatureFEATURE_BYTES_OUT) != 0
}

// egress is the attachment's second hook, as an attachment of the same interface.
func (at attachment) egress() (out attachment, found bool) {
	out = at
	out.key, found = at.dir.egress(at.key)
	return out, found
}

// hooks are the attachment itself and its second hook, if it has one.
func (at attachment) hooks() []attachment {
	if out, ok := at.egress(); ok {
		return []attachment{at, out}
	}
	return []attachment{at}
}

// inspectEgress says what is wrong with a second hook that is needed; empty: nothing.
func (at attachment) inspectEgress(nl netlink.Link, needed bool) (why string) {
	if !needed {
		return ""
	}
	out, ok := at.egress()
	if !ok {
		return "what is sent is not counted, so bytes_out limits nothing; attach again"
	}
	if s := out.inspect(nl); !s.live {
		return "what is sent is not counted, at egress: " + s.why
	}
	return ""
}

// egressFits: there is a second hook just where these features need one.
func (at attachment) egressFits(features uint32) bool {
	_, found := at.egress()
	return found == needsEgress(features)
}

// fitEgress makes the second hook what these settings need: there with such a program, or not there. A hook that is
// there and no longer runs what was pinned for it is made anew. An interface that is gone gets none.
func (i *Instance) fitEgress(at attachment, f frozen) error {
	if !needsEgress(f.features) {
		return i.dropEgress(at)
	}
	return at.insideNetns(func() error {
		nl := at.device()
		if nl == nil {
			return nil
		}
		if out, found := at.egress(); found && out.inspect(nl).live {
			return i.swapProgram(out, f)
		}
		return errors.Join(i.dropEgress(at), i.putEgress(at, nl, f))
	})
}

// dropEgress takes the second hook away, if there is one, from wherever it lies.
func (i *Instance) dropEgress(at attachment) error {
	out, found := at.egress()
	switch {
	case !found:
		return nil
	case !out.key.hook.filter():
		return i.dropHook(out)
	}
	err := out.insideNetns(func() error { return i.dropHook(out) })
	if err != nil || at.key.hook.filter() {
		return err
	}
	return i.noteClsact(at.slot, false)
}

// putEgress tries tcx, then clsact (below Linux 6.6). The order makes a kill harmless, as that of tryHook does: without
// its link a program's pin means nothing, and by clsact there is a filter that counts what the policy in force
// does not ask for.
func (i *Instance) putEgress(at attachment, nl netlink.Link, f frozen) error {
	ours, err := i.programIDs()
	if err != nil {
		return err
	}
	if err := foreignFilter(nl, hookClsactOut, ours); err != nil {
		return err
	}
	for _, h := range []hook{hookTCXOut, hookClsactOut} {
		if err = i.tryEgress(at, h, nl, f); err == nil || !unsupported(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("attach %s (egress): %w", nl.Attrs().Name, err)
	}
	return nil
}

func (i *Instance) tryEgress(at attachment, h hook, nl netlink.Link, f frozen) error {
	key := pinKey{at.key.cookie, at.key.ifindex, h}
	prog, err := i.maps.loadProgram(h, f)
	if err != nil {
		return err
	}
	defer prog.Close()
	for _, stale := range []string{i.dir.link(key), i.dir.prog(key)} {
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove stale pin: %w", err)
		}
	}
	if err := prog.Pin(i.dir.prog(key)); err != nil {
		return fmt.Errorf("pin program: %w", err)
	}
	return i.raise(at.slot, key, ModeTC, nl, prog)
}

// raise puts a pinned program on its hook and pins the link. Where that fails the program's pin is removed.
func (i *Instance) raise(slot uint32, key pinKey, mode Mode, nl netlink.Link, prog *ebpf.Program) error {
	l, made, err := hookUp(key.hook, mode, nl, prog)
	if err == nil && l != nil {
		defer l.Close()
		err = l.Pin(i.dir.link(key))
	}
	if made {
		err = i.noteClsact(slot, true)
	}
	if err != nil {
		return errors.Join(err, os.Remove(i.dir.prog(key)))
	}
	return nil
}

// noteClsact remembers whether detach may remove clsact: if it was made here.
func (i *Instance) noteClsact(slot uint32, made bool) error {
	return i.changeRecord(slot, func(r *limiterInterface) {
		r.Hook &^= madeClsact
		if made {
			r.Hook |= madeClsact
		}
	})
}

// mendEgress puts back a second hook that is needed and that a killed command, or somebody else, left out.
func (a *attacher) mendEgress(key pinKey) error {
	at, err := a.attachedAs(key)
	if err != nil {
		return err
	}
	needed := a.featuresNeeded()
	if at.inspectEgress(a.nl, needsEgress(needed)) == "" {
		return nil
	}
	a.result.Mended = true
	return a.addEgress(at, needed)
}

// addEgress gives an attachment its second hook, if these features need one. The record claims the feature only then.
func (a *attacher) addEgress(at attachment, features uint32) error {
	if !needsEgress(features) {
		return nil
	}
	f := at.record.frozen()
	f.slot, f.features, f.observeAfter = at.slot, features, at.record.ObserveAfter
	if err := a.fitEgress(at, f); err != nil {
		return err
	}
	return a.writeFeatures(at, at.record.Features|uint32(limiterFeatureFEATURE_BYTES_OUT), at.record.ObserveAfter)
}

// attachedAs finds an attachment by its first hook.
func (i *Instance) attachedAs(key pinKey) (attachment, error) {
	all, err := i.attached()
	if err != nil {
		return attachment{}, err
	}
	for _, at := range all {
		if at.key == key {
			return at, nil
		}
	}
	return attachment{}, fmt.Errorf("find attachment %s: %w", key, ErrNotAttached)
}
