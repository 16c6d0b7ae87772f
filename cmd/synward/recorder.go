// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/state"
)

// recorder is the kernel that every command gets. It hands everything on and keeps in mind whether something was
// changed, so that a command cannot forget to say so. It embeds nothing that changes: what is added to changer or
// writer does not compile until it is recorded here.
type recorder struct {
	kernel
	now func() time.Time
	// readsOnly: the command is one of readingCommands, and changes nothing.
	readsOnly bool
	change
}

// change is what one command changed. A command changes one instance.
type change struct {
	// made: something was changed, or may have been before it failed.
	made bool
	// at is when, while nobody else could change anything.
	at            time.Time
	before, after *uint16
}

var _ changer = (*recorder)(nil)

func errReadsOnly() error { return errors.New("this command may not change anything") }

// note keeps in mind how one change ended. What is refused, makes no sense, cannot be done here or has nothing to
// be done to has touched nothing.
func (r *recorder) note(changed bool, err error) {
	for _, nothing := range []error{
		datapath.ErrRefused, datapath.ErrInvalid, datapath.ErrUnsupported, datapath.ErrNotAttached,
		datapath.ErrFull, policy.ErrInvalid,
	} {
		if errors.Is(err, nothing) && !errors.Is(err, datapath.ErrUnsettled) && !errors.Is(err, datapath.ErrUnkept) {
			return
		}
	}
	if changed || err != nil {
		r.made, r.at = true, r.now()
	}
}

// outside notes a change that opens the instance itself. Another command may come in between.
func (r *recorder) outside(pinDir string, f func() (changed bool, err error)) {
	r.before = r.generation(pinDir)
	changed, err := f()
	r.after = r.generation(pinDir)
	moved := (r.before == nil) != (r.after == nil) || r.before != nil && *r.before != *r.after
	r.note(changed || moved, err)
}

// generation is nil where nothing is attached, or nothing can be read.
func (r *recorder) generation(pinDir string) *uint16 {
	i, err := r.kernel.Open(pinDir)
	if err != nil {
		return nil
	}
	defer i.Close()
	g := i.Generation()
	return &g
}

func (r *recorder) Attach(o datapath.AttachOptions) (result *datapath.AttachResult, err error) {
	if r.readsOnly {
		return nil, errReadsOnly()
	}
	r.outside(o.PinDir, func() (bool, error) {
		result, err = r.kernel.Attach(o)
		return result != nil && !result.Unchanged, err
	})
	return result, err
}

func (r *recorder) Detach(o datapath.DetachOptions) (done datapath.Detached, err error) {
	if r.readsOnly {
		return done, errReadsOnly()
	}
	r.outside(o.PinDir, func() (bool, error) {
		done, err = r.kernel.Detach(o)
		return len(done.Names)+len(done.Dismissed) > 0, err
	})
	return done, err
}

func (r *recorder) Upgrade(pinDir string) (done *datapath.Upgraded, err error) {
	if r.readsOnly {
		return nil, errReadsOnly()
	}
	r.outside(pinDir, func() (changed bool, _ error) {
		done, err = r.kernel.Upgrade(pinDir)
		if done != nil {
			swapped := func(one datapath.UpgradedInterface) bool { return one.Swapped }
			changed = done.Finished || done.From != done.To || slices.ContainsFunc(done.Interfaces, swapped)
		}
		return changed, err
	})
	return done, err
}

func (r *recorder) Save(pinDir string, store *state.Store) (err error) {
	if r.readsOnly {
		return errReadsOnly()
	}
	r.outside(pinDir, func() (bool, error) {
		err = r.kernel.Save(pinDir, store)
		return true, err
	})
	return err
}

func (r *recorder) Restore(o state.RestoreOptions, store *state.Store) (all []state.Restored, err error) {
	if r.readsOnly {
		return nil, errReadsOnly()
	}
	r.outside(o.PinDir, func() (changed bool, _ error) {
		all, err = r.kernel.Restore(o, store)
		for _, one := range all {
			changed = changed || one.Result != nil && !one.Result.Unchanged
		}
		return changed, err
	})
	return all, err
}

func (r *recorder) CloseSockets(chosen func(peer netip.Addr) bool) (done datapath.ClosedSockets, err error) {
	if r.readsOnly {
		return done, errReadsOnly()
	}
	done, err = r.kernel.CloseSockets(chosen)
	r.note(done != datapath.ClosedSockets{}, err)
	return done, err
}

func (r *recorder) OpenForChange(pinDir string, keeper datapath.Keeper) (instance, error) {
	if r.readsOnly {
		return nil, errReadsOnly()
	}
	i, err := r.kernel.OpenForChange(pinDir, keeper)
	if err != nil {
		return nil, err
	}
	g := i.Generation()
	r.before = &g
	return &recorded{reader: i, writer: i, r: r}, nil
}

// recorded is an instance that is open for a change.
type recorded struct {
	reader
	writer writer
	r      *recorder
}

var _ writer = (*recorded)(nil)

// Close reads what is in force last, with the lock held.
func (i *recorded) Close() error {
	g := i.Generation()
	i.r.after = &g
	return i.reader.Close()
}

func (i *recorded) Apply(o datapath.ApplyOptions) error {
	err := i.writer.Apply(o)
	i.r.note(true, err)
	return err
}

func (i *recorded) Confirm() (bool, error) {
	found, err := i.writer.Confirm()
	i.r.note(found, err)
	return found, err
}

func (i *recorded) Rollback(n int, by string) (*policy.Policy, error) {
	p, err := i.writer.Rollback(n, by)
	i.r.note(true, err)
	return p, err
}

func (i *recorded) Add(l datapath.List, entries []datapath.Entry) error {
	err := i.writer.Add(l, entries)
	i.r.note(true, err)
	return err
}

func (i *recorded) Remove(l datapath.List, prefixes []netip.Prefix) (int, error) {
	removed, err := i.writer.Remove(l, prefixes)
	i.r.note(removed > 0, err)
	return removed, err
}

func (i *recorded) LiftBans() (lifted int, err error) {
	lifted, err = i.writer.LiftBans()
	i.r.note(lifted > 0, err)
	return lifted, err
}

func (i *recorded) LoadFeed(o datapath.FeedOptions) (datapath.FeedChange, error) {
	done, err := i.writer.LoadFeed(o)
	i.r.note(true, err)
	return done, err
}

func (i *recorded) RemoveFeed(name string) (entries int, found bool, err error) {
	entries, found, err = i.writer.RemoveFeed(name)
	i.r.note(found, err)
	return entries, found, err
}

func (i *recorded) Forget(addr netip.Addr) error {
	err := i.writer.Forget(addr)
	i.r.note(true, err)
	return err
}

func (i *recorded) SetSysctls() ([]datapath.Unanswered, error) {
	changed, err := i.writer.SetSysctls()
	i.r.note(len(changed) > 0, err)
	return changed, err
}
