// SPDX-License-Identifier: Apache-2.0

package datapath

import (
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
}

// Apply puts a policy in force in one step: it is written beside the one in force, then one word is flipped.
// Limits that stay the same keep their levels and counts. ErrInvalid: what this data path cannot do.
// ErrRefused: another policy waits for its confirmation. The policy must be normal. An error leaves the old
// policy in force, whole.
func (i *Instance) Apply(o ApplyOptions) error {
	if err := o.Policy.Validate(); err != nil {
		return err
	}
	now := monotonicNow()
	before := i.live()
	if before.pending(now) {
		return i.refusePending(before, now)
	}
	prior, err := i.predecessor(before.inForce(now))
	if err != nil {
		return err
	}
	c, err := compile(o.Policy, prior)
	if err != nil {
		return err
	}
	next := live{generation: i.nextGeneration(now)}
	if o.Confirm > 0 {
		next.fallback = before.inForce(now)
	}
	if err := i.write(c, next.generation, o.By); err != nil {
		return err
	}
	if err := i.widenPrograms(c.head.Features); err != nil {
		return err
	}
	if o.Confirm > 0 {
		next.deadline = deadline(o.Confirm)
	}
	if !i.swap(before, next) {
		return fmt.Errorf("flip policy: somebody else changed the control word: is another command at work without the lock?")
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
		return nil
	}
	if l.lapsed(now) || l.deadline != 0 {
		settled := live{generation: l.inForce(now)}
		if !i.swap(l, settled) {
			return fmt.Errorf("settle policy: somebody else changed the control word")
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
	return i.narrowPrograms()
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
	found, err = i.confirmPrograms()
	l := i.live()
	if err != nil || !l.pending(monotonicNow()) {
		return found, err
	}
	if !i.swap(l, live{generation: l.generation}) {
		return false, fmt.Errorf("confirm: somebody else changed the control word")
	}
	return true, i.settle()
}

// Rollback puts the policy back that was in force n policies ago (1: the last). One that waits for its
// confirmation counts as the one in force: it goes at once. It returns the policy that is in force now.
func (i *Instance) Rollback(n int, by string) (*policy.Policy, error) {
	now := monotonicNow()
	l := i.live()
	if l.pending(now) && n == 1 {
		if !i.swap(l, live{generation: l.fallback}) {
			return nil, fmt.Errorf("roll back: somebody else changed the control word")
		}
		if err := i.settle(); err != nil {
			return nil, err
		}
		return i.PolicyInForce()
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
