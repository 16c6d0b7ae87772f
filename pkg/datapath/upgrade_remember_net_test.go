// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

// remembered is what an instance remembers, as people see it; counts are in it, for nothing may be lost.
type remembered struct {
	Allow, Block []datapath.Entry
	Feeds        []datapath.Feed
	Kept         []datapath.Applied
	Generation   uint16
	Pending      bool
	// Instance is by what the saved state knows it.
	Instance uint64
	Begun    uint64
}

func (l *upgradeLab) remember() (r remembered) {
	l.t.Helper()
	l.read(func(i *datapath.Instance) (err error) {
		allow, allowErr := i.Entries(datapath.Allow)
		block, blockErr := i.Entries(datapath.Block)
		feeds, feedsErr := i.Feeds()
		kept, keptErr := i.Kept()
		p, err := i.Policy()
		mark, _, markErr := i.Changed()
		r = remembered{allow, block, feeds, kept, p.Generation, p.Pending != nil, mark.Instance, mark.Begun}
		return errors.Join(allowErr, blockErr, feedsErr, keptErr, err, markErr)
	})
	return r
}

// mustRemember wants all that was remembered to be there; hits only grow, and ends are told to the second.
func (l *upgradeLab) mustRemember(before remembered) {
	l.t.Helper()
	after := l.remember()
	l.mustHaveEntries("allow", before.Allow, after.Allow)
	l.mustHaveEntries("block", before.Block, after.Block)
	l.mustHaveFeeds(before.Feeds, after.Feeds)
	if after.Begun < before.Begun {
		l.t.Errorf("%d changes were begun, before it were %d: what is saved would pass for whole", after.Begun, before.Begun)
	}
	before.Allow, before.Block, after.Allow, after.Block = nil, nil, nil, nil
	before.Feeds, after.Feeds = nil, nil
	before.Begun, after.Begun = 0, 0
	old, oldErr := json.Marshal(before)
	new, newErr := json.Marshal(after)
	if err := errors.Join(oldErr, newErr); err != nil {
		l.t.Fatal(err)
	}
	if !bytes.Equal(old, new) {
		l.t.Errorf("remembered %s\nbefore it was %s", new, old)
	}
}

func (l *upgradeLab) mustHaveFeeds(before, after []datapath.Feed) {
	l.t.Helper()
	if len(before) == 0 || len(before) != len(after) {
		l.t.Errorf("%d feeds were %d", len(after), len(before))
		return
	}
	for n, old := range before {
		new := after[n]
		if d := new.Expires.Sub(old.Expires).Abs(); old.Expires.IsZero() == new.Expires.IsZero() && d < time.Second {
			old.Expires = new.Expires
		}
		if old != new {
			l.t.Errorf("feed %+v was %+v", new, old)
		}
	}
}

func (l *upgradeLab) mustHaveEntries(list string, before, after []datapath.Entry) {
	l.t.Helper()
	if len(before) != len(after) {
		l.t.Errorf("%s list: %d entries were %d", list, len(after), len(before))
		return
	}
	for n, old := range before {
		new := after[n]
		if new.Hits < old.Hits {
			l.t.Errorf("%s %s: %d hits were %d", list, old.Prefix, new.Hits, old.Hits)
		}
		if d := new.Expires.Sub(old.Expires).Abs(); !old.Expires.IsZero() && d.Seconds() > 1 {
			l.t.Errorf("%s %s: ends at %v, was %v", list, old.Prefix, new.Expires, old.Expires)
		}
		old.Hits, old.Expires, new.Hits = 0, new.Expires, 0
		if old.Ban != nil && old.Created.Sub(new.Created).Abs() < time.Second {
			old.Created = new.Created // by another clock
		}
		if !reflect.DeepEqual(old, new) {
			l.t.Errorf("%s entry %+v was %+v", list, new, old)
		}
	}
}
