// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"os"
	"slices"

	"github.com/synward/synward/pkg/datapath"
)

var _ datapath.Keeper = (*Store)(nil)

// Keep saves what an instance has become: a change of the lists at the end of the journal, anything else as a new
// state, and all of it if the last saved state is not the one before this change, or of another format.
func (s *Store) Keep(i *datapath.Instance) error {
	now, opened, err := i.Changed()
	if err != nil {
		return err
	}
	h, err := s.head()
	if err != nil {
		return err
	}
	lists, whole, other := i.Made()
	fold, ok := s.holds(h, opened)
	feeds, err := i.Feeds()
	if err != nil {
		return err
	}
	switch {
	case !ok || fold || !whole || other && len(lists) > 0 || h.Format != formatOf(feeds):
		return s.saveAll(i, h)
	case other:
		return s.saveRest(i, h, now)
	}
	return s.appendJournal(h, now.Begun, lists)
}

// Save saves all of an instance, also what the data path itself has put on its lists.
func (s *Store) Save(i *datapath.Instance) error {
	h, err := s.head()
	if err != nil {
		return err
	}
	return s.saveAll(i, h)
}

// holds: the state and its journal hold this change of this instance, and no later one. fold: the journal has
// grown so large that the lists are better written anew.
func (s *Store) holds(h *head, c datapath.Change) (fold, ok bool) {
	if h == nil || h.Instance != c.Instance || h.Lists.File == "" {
		return false, false
	}
	size, change, whole := s.journalEnd(h)
	if !whole || max(change, h.Change) != c.Begun {
		return false, false
	}
	info, err := os.Stat(s.path(h.Lists.File))
	if err != nil {
		return false, false
	}
	return size > max(minFold, info.Size()/2), true
}

// saveAll writes everything anew.
func (s *Store) saveAll(i *datapath.Instance, before *head) error {
	now, _, err := i.Changed()
	if err != nil {
		return err
	}
	feeds, err := i.Feeds()
	if err != nil {
		return err
	}
	h := &head{Format: formatOf(feeds), Instance: now.Instance, Change: now.Begun, number: 1}
	if before != nil {
		h.number = before.number + 1
	}
	if h.Lists, err = s.writeLists(i, fmt.Sprintf("lists-%d", h.number)); err != nil {
		return err
	}
	h.Journal = fmt.Sprintf("journal-%d", h.number)
	if err := s.write(h.Journal, func(*os.File) error { return nil }); err != nil {
		return err
	}
	return s.finish(i, h, before)
}

// saveRest writes all but the lists.
func (s *Store) saveRest(i *datapath.Instance, before *head, now datapath.Change) error {
	h := &head{Format: before.Format, Instance: now.Instance, Change: now.Begun, Lists: before.Lists, Journal: before.Journal}
	return s.finish(i, h, before)
}

func (s *Store) finish(i *datapath.Instance, h, before *head) (err error) {
	if h.Policies, err = s.writePolicies(i); err != nil {
		return err
	}
	if h.Interfaces, err = s.interfaces(i, before); err != nil {
		return err
	}
	return s.writeHead(h, before)
}

// interfaces are those that are attached for good, and those of an earlier instance that did not come yet.
func (s *Store) interfaces(i *datapath.Instance, before *head) ([]savedInterface, error) {
	attached, nameless, err := i.Attached()
	if err != nil {
		return nil, err
	}
	now, _, err := i.Changed()
	if err != nil {
		return nil, err
	}
	for _, a := range nameless {
		s.warn(fmt.Sprintf("%s lies in a network namespace without a name: after a reboot it is not attached again; "+
			"`ip netns attach NAME PID` names one", a.Interface))
	}
	saved := func(p datapath.Place) int {
		if before == nil {
			return -1
		}
		return slices.IndexFunc(before.Interfaces, func(one savedInterface) bool { return one.place() == p })
	}
	out := []savedInterface{}
	for _, a := range attached {
		at := saved(a.Place)
		if a.Unconfirmed && at < 0 {
			continue
		}
		out = append(out, savedInterface{Name: a.Interface, Netns: a.Netns, Mode: a.Mode, Instance: now.Instance})
	}
	if before == nil {
		return out, nil
	}
	for _, one := range before.Interfaces {
		// One of this instance that is not attached was detached by a command that was killed.
		there := slices.ContainsFunc(attached, func(a datapath.Attached) bool { return a.Place == one.place() })
		if !there && one.Instance != now.Instance {
			out = append(out, one)
		}
	}
	return out, nil
}

// Dismiss forgets interfaces, as datapath.Keeper says.
func (s *Store) Dismiss(match func(datapath.Place) bool, last bool) (known []datapath.Place, err error) {
	before, err := s.head()
	if err != nil || before == nil {
		return nil, err
	}
	h := *before
	h.Interfaces = nil
	for _, one := range before.Interfaces {
		if match(one.place()) {
			known = append(known, one.place())
		} else {
			h.Interfaces = append(h.Interfaces, one)
		}
	}
	gone := last && len(h.Interfaces) == 0
	if len(known) == 0 && (!gone || before.Lists.File == "") {
		return nil, nil
	}
	if gone {
		h = head{}
	}
	return known, s.writeHead(&h, before)
}
