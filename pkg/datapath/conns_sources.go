// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// openConns is what is counted of connections beside the lines of the ledger.
type openConns struct {
	// counted are the services, by id, whose connections are counted.
	counted  map[uint32]bool
	open     map[limiterSourceKey]uint64
	verified map[limiterAddr]uint64
}

// openConns reads it; empty where nothing is counted.
func (i *Instance) openConns() (*openConns, error) {
	o := &openConns{counted: map[uint32]bool{}, open: map[limiterSourceKey]uint64{}, verified: map[limiterAddr]uint64{}}
	slot := slotOfGeneration(i.live().inForce(monotonicNow()))
	head := i.control.Policies[slot]
	if head.Features&handshakeFeatures == 0 {
		return o, nil
	}
	for n := range min(head.Services, uint32(limiterAbiMAX_SERVICES)) {
		s := i.tables.Services[slot*uint32(limiterAbiMAX_SERVICES)+n]
		o.counted[s.Id] = s.Flags&uint32(limiterServiceFlagSERVICE_CONCURRENT) != 0
	}
	return o, i.readOpen(o)
}

func (i *Instance) readOpen(o *openConns) error {
	err := eachOf(i.maps.Conns, func(key limiterConnKey, word uint64) {
		if key.Limit < uint64(limiterAbiSERVICE_IDS) && word != math.MaxUint64 {
			o.open[limiterSourceKey{Addr: key.Addr, Service: uint32(key.Limit)}] = word & math.MaxUint32
		}
	})
	if err != nil {
		return err
	}
	return eachOf(i.maps.Verified, func(addr limiterAddr, ns uint64) { o.verified[addr] = ns })
}

// fill adds to a line of the ledger what is counted of its connections.
func (o *openConns) fill(s *Source, key limiterSourceKey) {
	s.Counted = o.counted[key.Service]
	s.Established = o.open[key]
	delete(o.open, key)
	if ns, ok := o.verified[key.Addr]; ok {
		s.Verified = wallTime(ns)
	}
}

// left are sources that hold connections and that the ledger has forgotten, or never had: sorted.
func (o *openConns) left(i *Instance, names map[uint32]string) (out []Source) {
	for key, open := range o.open {
		addr := netAddr(key.Addr)
		if open == 0 || !addr.IsValid() || !o.counted[key.Service] {
			continue
		}
		s := Source{Prefix: i.sourceOf(addr), Service: names[key.Service], Counted: true, Established: open}
		if ns, ok := o.verified[key.Addr]; ok {
			s.Verified = wallTime(ns)
		}
		// When it was first seen is not known; it is there now.
		s.LastSeen = time.Now()
		s.FirstSeen = s.LastSeen
		if !s.Verified.IsZero() {
			s.FirstSeen = s.Verified
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Source) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Service, b.Service))
	})
	return out
}
