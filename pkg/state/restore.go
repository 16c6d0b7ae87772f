// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/synward/synward/pkg/datapath"
)

// loadAtOnce is how many entries are read before they are put on a list.
const loadAtOnce = 1 << 15

// Fill brings policies and lists back, as datapath.Keeper says.
func (s *Store) Fill(i *datapath.Instance, ownPolicy bool) error {
	h, err := s.wholeHead()
	if err != nil {
		return err
	}
	if h == nil || len(h.Interfaces) == 0 {
		return nil
	}
	if now, _, err := i.Changed(); err != nil || now.Instance == h.Instance {
		return err // what a killed command left of the same instance: all of it is there
	}
	bans, err := s.fillLists(i, h)
	if err != nil {
		return fmt.Errorf("restore lists: %w", err)
	}
	kept, err := s.readPolicies(h)
	if err == nil {
		err = i.LoadPolicies(kept, !ownPolicy)
	}
	if err != nil {
		// Better an interface with the lists alone than none: whoever attaches may need it now.
		s.warn(fmt.Sprintf("the saved policies could not be brought back: %v; they are in %s", err, s.path(headName(h.number))))
	}
	// Behind the policies, whose services they name; no packet comes before that.
	if err := s.load(i, datapath.Block, bans); err != nil {
		return fmt.Errorf("restore bans: %w", err)
	}
	return nil
}

// fillLists returns the bans, which are still to be loaded.
func (s *Store) fillLists(i *datapath.Instance, h *head) (bans []datapath.Entry, err error) {
	waiting := map[datapath.List][]datapath.Entry{}
	load := func(l datapath.List) error {
		err := s.load(i, l, waiting[l])
		waiting[l] = waiting[l][:0]
		return err
	}
	err = s.eachEntry(h, visitor{i.KeepFeed, func(l datapath.List, e datapath.Entry) error {
		if e.Ban != nil {
			bans = append(bans, e)
			return nil
		}
		waiting[l] = append(waiting[l], e)
		if len(waiting[l]) < loadAtOnce {
			return nil
		}
		return load(l)
	}})
	return bans, errors.Join(err, load(datapath.Allow), load(datapath.Block))
}

// load warns of what does not fit.
func (s *Store) load(i *datapath.Instance, l datapath.List, entries []datapath.Entry) error {
	err := i.Load(l, entries)
	if errors.Is(err, datapath.ErrFull) {
		s.warn(err.Error())
		return nil
	}
	return err
}

// RestoreOptions say what to bring back.
type RestoreOptions struct {
	PinDir string
	// Interface restores only that of the caller's network namespace; empty: all.
	Interface string
	// By is who restores, kept for people.
	By string
}

// Restored is what became of one interface.
type Restored struct {
	datapath.Place
	// Here: it lies in the caller's network namespace.
	Here   bool
	Result *datapath.AttachResult
	// Missing: it is not there, and is attached once `restore` runs again.
	Missing bool
	// Err is why it could not be attached.
	Err error
}

// Restore attaches what was attached when the state was saved, with its policies and lists, which come first: no
// packet passes in between. What is attached already stays as it is. None: there is nothing to restore.
func (s *Store) Restore(o RestoreOptions) ([]Restored, error) {
	h, err := s.wholeHead()
	if err != nil || h == nil {
		return nil, err
	}
	own, named, err := datapath.OwnNetns()
	if err != nil {
		return nil, err
	}
	var out []Restored
	for _, one := range h.Interfaces {
		here := named && one.Netns == own
		if o.Interface != "" && (!here || one.Name != o.Interface) {
			continue
		}
		r := Restored{Place: one.place(), Here: here}
		attach := func() (err error) {
			r.Result, err = s.attach(o, one)
			return err
		}
		if here {
			err = attach()
		} else {
			err = datapath.InNetns(one.Netns, attach)
		}
		r.Missing = errors.Is(err, fs.ErrNotExist) || errors.Is(err, datapath.ErrNoInterface)
		if !r.Missing {
			r.Err = err
		}
		out = append(out, r)
	}
	return out, nil
}

// attach takes the mode that was there before, or the best that this kernel and driver can do now.
func (s *Store) attach(o RestoreOptions, one savedInterface) (*datapath.AttachResult, error) {
	opts := datapath.AttachOptions{PinDir: o.PinDir, Interface: one.Name, Mode: one.Mode, By: o.By, Keeper: s}
	result, err := datapath.Attach(opts)
	if errors.Is(err, datapath.ErrUnsupported) {
		opts.Mode = datapath.ModeAuto
		result, err = datapath.Attach(opts)
	}
	return result, err
}
