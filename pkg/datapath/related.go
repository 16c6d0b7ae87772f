// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
)

// Relation is what a list holds around a prefix, the prefix itself left out.
type Relation struct {
	Prefix netip.Prefix
	// Wider is the longest entry that contains it; nil if there is none.
	Wider *Entry
	// Inside are the first entries that it contains, in order, of Count.
	Inside []netip.Prefix
	Count  int
}

// maxInside is how many entries inside a prefix are named.
const maxInside = 3

// Related says of each prefix what a list holds around it now. It walks the list once, and only if one of the
// prefixes could contain an entry: about 0.3 s of CPU time beside a million.
func (i *Instance) Related(l List, prefixes []netip.Prefix) ([]Relation, error) {
	m := i.list(l)
	out := make([]Relation, len(prefixes))
	var wide []*Relation
	for n, p := range prefixes {
		p = p.Masked()
		wider, err := i.wider(m, p)
		if err != nil {
			return nil, err
		}
		out[n] = Relation{Prefix: p, Wider: wider}
		if !p.IsSingleIP() {
			wide = append(wide, &out[n])
		}
	}
	if len(wide) == 0 {
		return out, nil
	}
	for _, from := range m.maps() {
		err := eachEntry(from, func(key limiterPrefixKey, v limiterListEntry) {
			if p, ok := m.prefixOf(key, from == m.prefixes); ok && i.holds(v) {
				for _, r := range wide {
					r.note(p)
				}
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// note counts an entry that lies inside, and keeps the first ones.
func (r *Relation) note(p netip.Prefix) {
	if p.Bits() <= r.Prefix.Bits() || !r.Prefix.Contains(p.Addr()) {
		return
	}
	r.Count++
	at, _ := slices.BinarySearchFunc(r.Inside, p, cmpPrefix)
	if at < maxInside {
		r.Inside = slices.Insert(r.Inside, at, p)
		r.Inside = r.Inside[:min(len(r.Inside), maxInside)]
	}
}

// wider is the longest entry that holds and contains a prefix, itself left out.
func (i *Instance) wider(m listMaps, p netip.Prefix) (*Entry, error) {
	found := func(p netip.Prefix, e limiterListEntry) *Entry {
		_, key := m.place(p)
		entry := i.entry(m, p, key, e)
		return &entry
	}
	const network = 64 // what the hash holds beside hosts
	if p.Addr().Is6() && p.Bits() > network {
		q := netip.PrefixFrom(p.Addr(), network).Masked()
		target, key := m.place(q)
		if e, there, err := m.exact(target, key); err != nil {
			return nil, err
		} else if there && i.holds(e) {
			return found(q, e), nil
		}
	}
	key := limiterPrefixKey{Addr: dataAddr(p.Addr())}
	for bits := p.Bits() - 1; bits >= 0; {
		var e limiterListEntry
		key.Prefixlen = uint32(bits) + lpmFamilyBits
		err := m.prefixes.Lookup(key, &e)
		if isMissing(err) || err == nil && (e.Prefixlen < lpmFamilyBits || e.Prefixlen > key.Prefixlen) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", p, err)
		}
		length := int(e.Prefixlen) - lpmFamilyBits
		if i.holds(e) {
			return found(netip.PrefixFrom(p.Addr(), length).Masked(), e), nil
		}
		bits = length - 1
	}
	return nil, nil
}
