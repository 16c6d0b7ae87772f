// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
)

// origins tells who names an entry, all at one moment.
type origins struct {
	*Instance
	feeds   feedTable
	holding uint32
}

func (i *Instance) origins() (*origins, error) {
	t, err := i.feedTable()
	holding, _ := i.feedsHolding(monotonicNow())
	return &origins{i, t, holding}, err
}

// append adds an entry once for each who names it and covers new connections: the policy alone, where it does.
func (o *origins) append(to []Entry, m listMaps, p netip.Prefix, key limiterPrefixKey, v limiterListEntry) []Entry {
	if o.byPolicy(v) {
		return append(to, Entry{Prefix: p, Scope: ScopeAll, Origin: originPolicy, Hits: v.Hits})
	}
	if v.Listed != 0 && !expired(v) {
		to = append(to, o.listedEntry(m, p, key, v))
	}
	for slot, r := range o.feeds {
		if v.Feeds&o.holding>>slot&1 == 0 {
			continue
		}
		f := o.feed(slot, r)
		to = append(to, Entry{
			Prefix: p, Scope: f.Scope, Expires: f.Expires, Created: f.Loaded, Origin: f.Origin(), By: f.By, Hits: v.Hits,
		})
	}
	return to
}

// entry is an entry as it is shown where one is: of those who name it, the one that lasts the longest.
func (i *Instance) entry(m listMaps, p netip.Prefix, key limiterPrefixKey, v limiterListEntry) Entry {
	o, err := i.origins()
	if err != nil {
		o = &origins{Instance: i}
	}
	longest := Entry{Prefix: p, Scope: ScopeAll, Origin: originOperator, Hits: v.Hits}
	for n, e := range o.append(nil, m, p, key, v) {
		if n == 0 || !longest.Expires.IsZero() && (e.Expires.IsZero() || e.Expires.After(longest.Expires)) {
			longest = e
		}
	}
	return longest
}
