// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// ApplyOptions say how a policy is put in force.
type ApplyOptions struct {
	Policy *policy.Policy
	// Confirm, if above zero, is how long the policy holds unless Confirm is called: the data path itself
	// goes back then. It is rounded up to whole seconds.
	Confirm time.Duration
	// By is who applies it, kept for people.
	By string
	// restored: better bans that may cover anybody for a while than no limits after a reboot.
	restored bool
}

// Apply puts a policy in force in one step: it is written beside the one in force, then one word is flipped.
// Limits that stay the same keep their levels and counts. ErrInvalid: what this data path cannot do.
// ErrRefused: another policy waits for its confirmation. The policy must be normal.
// ErrUnsettled: it is in force, but what it replaced is not all cleared away. Any other error leaves the old policy
// in force, whole.
func (i *Instance) Apply(o ApplyOptions) error {
	if err := o.Policy.Validate(); err != nil {
		return err
	}
	if l, now := i.live(), monotonicNow(); l.pending(now) {
		return i.refusePending(l, now)
	}
	if err := errors.Join(i.leaveBehind(), i.beginOther()); err != nil {
		return err
	}
	before := i.live()
	prior, err := i.predecessor(before.generation)
	if err != nil {
		return err
	}
	c, err := compile(o.Policy, prior)
	if err != nil {
		return err
	}
	next := live{generation: i.nextGeneration(monotonicNow())}
	if err := i.prepare(c, next.generation, o); err != nil {
		return errors.Join(err, i.discard(next.generation), i.settleConns())
	}
	if o.Confirm > 0 {
		next.fallback, next.deadline = before.generation, deadline(o.Confirm)
	}
	if !i.swap(before, next) {
		return errors.Join(errChanged(), i.discard(next.generation))
	}
	if err := i.settle(); err != nil {
		return fail(ErrUnsettled, "the policy is in force, but what it replaced is not all cleared away: %w", err)
	}
	return nil
}

// prepare writes a policy beside the one in force, and gives every program what it needs for both.
func (i *Instance) prepare(c *compiled, generation uint16, o ApplyOptions) error {
	if err := i.write(c, generation, o.By); err != nil {
		return err
	}
	if len(c.bans) > 0 {
		if err := i.protect(); err != nil && !o.restored {
			return err
		}
	}
	if err := i.widenConns(c, generation); err != nil {
		return err
	}
	return i.widenPrograms(c.head.Features)
}

// discard takes away what prepare wrote of a policy that does not come into force.
func (i *Instance) discard(generation uint16) error {
	return errors.Join(i.clearSlot(slotOfGeneration(generation)), i.dropTexts(func(g uint16) bool { return g != generation }))
}

func errChanged() error {
	return errors.New("flip policy: somebody else changed the control word: is another command at work without the lock?")
}

// leaveBehind finishes what a killed command or a deadline left: the word names one policy then, and nothing
// of others stands in the maps.
func (i *Instance) leaveBehind() error {
	l := i.live()
	if l.pending(monotonicNow()) {
		return nil
	}
	left := l.deadline != 0
	for slot := range uint32(limiterAbiPOLICY_SLOTS) {
		left = left || slot != slotOfGeneration(l.generation) && i.control.Policies[slot].Listed != 0
	}
	if !left {
		return nil
	}
	return i.settle()
}

// deadline is a time from now in the seconds of the control word, rounded up.
func deadline(in time.Duration) uint32 {
	return uint32(ceilDiv(monotonicNow()+uint64(in), uint64(time.Second)))
}

func (i *Instance) refusePending(l live, now uint64) error {
	who := "somebody"
	if kept, ok, err := i.text(l.generation); err == nil && ok && kept.By != "" {
		who = kept.By
	}
	return fail(ErrRefused, "a policy that %s applied waits for its confirmation for another %s; first: synward confirm, or synward rollback",
		who, l.left(now).Round(time.Second))
}

// settle does after a flip what needs nobody to wait for it: the policy that went out of use is cleared
// away, and programs shed what nobody needs any more. Killed before it, the next change does it.
func (i *Instance) settle() error {
	now := monotonicNow()
	l := i.live()
	if l.pending(now) {
		return i.settleConns()
	}
	if l.deadline != 0 {
		settled := live{generation: l.inForce(now)}
		if !i.swap(l, settled) {
			return errChanged()
		}
		l = settled
	}
	if err := i.markApplied(l.generation); err != nil {
		return err
	}
	if err := waitForPrograms(); err != nil {
		return err
	}
	for slot := range uint32(limiterAbiPOLICY_SLOTS) {
		if slot == slotOfGeneration(l.generation) {
			continue
		}
		if err := i.clearSlot(slot); err != nil {
			return err
		}
	}
	if err := i.keepTexts(l.generation); err != nil {
		return err
	}
	if err := i.narrowPrograms(); err != nil {
		return err
	}
	return i.settleConns()
}

// keepTexts forgets all but the policy in force and the last ones before it. What was never in force for
// good, for nobody confirmed it or its apply was killed, is none to go back to.
func (i *Instance) keepTexts(inForce uint16) error {
	all, err := i.generations()
	if err != nil {
		return err
	}
	keep := map[uint16]bool{inForce: true}
	for _, g := range all {
		if len(keep) <= keptPolicies {
			keep[g] = true
		}
	}
	return i.dropTexts(func(g uint16) bool { return keep[g] })
}

// Confirm keeps a policy and attachments that wait for it. found is false where nothing does: it was
// confirmed before, or its time is over and the policy before it is back.
func (i *Instance) Confirm() (found bool, err error) {
	if err := i.beginOther(); err != nil {
		return false, err
	}
	l := i.live()
	if l.pending(monotonicNow()) {
		// The word first: programs take a moment, in which its time may be over.
		if !i.swap(l, live{generation: l.generation}) {
			return false, errChanged()
		}
		found, err = true, i.settle()
	}
	attached, more := i.confirmPrograms()
	return found || attached, errors.Join(err, more)
}

// Rollback puts the policy back that was in force n policies ago (1: the last). One that waits for its
// confirmation, or did when the instance was opened, counts as the one in force: it goes at once. It
// returns the policy that is in force now.
func (i *Instance) Rollback(n int, by string) (*policy.Policy, error) {
	if err := i.beginOther(); err != nil {
		return nil, err
	}
	l := i.live()
	if l.pending(monotonicNow()) && n == 1 {
		if !i.swap(l, live{generation: l.fallback}) {
			return nil, errChanged()
		}
		return i.inForceSettled()
	}
	if i.waited && n == 1 {
		return i.inForceSettled() // its time is over meanwhile
	}
	kept, err := i.Kept()
	if err != nil {
		return nil, err
	}
	if n < 1 || n >= len(kept) {
		return nil, fail(ErrInvalid, "there are %d policies to go back to, not %d; synward policy --list shows them", len(kept)-1, n)
	}
	return kept[n].Policy, i.Apply(ApplyOptions{Policy: kept[n].Policy, By: by})
}

func (i *Instance) inForceSettled() (*policy.Policy, error) {
	if err := i.settle(); err != nil {
		return nil, err
	}
	return i.PolicyInForce()
}

// Kept are the policy in force, then those that can be gone back to, the newest first.
func (i *Instance) Kept() ([]Applied, error) {
	inForce := i.live().inForce(monotonicNow())
	all, err := i.generations()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(g uint16) bool { return g == inForce })
	var out []Applied
	for _, g := range append([]uint16{inForce}, all...) {
		kept, ok, err := i.text(g)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, kept)
		}
	}
	return out, nil
}

// PolicyInForce is the policy that programs judge by at this instant.
func (i *Instance) PolicyInForce() (*policy.Policy, error) {
	generation := i.live().inForce(monotonicNow())
	kept, ok, err := i.text(generation)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errDamaged(fmt.Sprintf("policy of generation %d", generation))
	}
	return kept.Policy, nil
}
