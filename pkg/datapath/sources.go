// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// readBatch is how many entries of a hash are read by one system call.
const readBatch = 8192

// Sources reads the whole ledger, in no order. What the data path writes meanwhile may be in it or
// not; an entry that moves under the read may come twice and is returned once.
func (i *Instance) Sources() ([]Source, error) {
	seen := map[limiterSourceKey]bool{}
	names, err := i.serviceNames()
	if err != nil {
		return nil, err
	}
	open, err := i.openConns()
	if err != nil {
		return nil, err
	}
	sent, err := i.sentLevels()
	if err != nil {
		return nil, err
	}
	var out []Source
	var troubles error
	err = eachOf(i.maps.Sources, func(key limiterSourceKey, value limiterSource) {
		s, ok := i.source(key, value, names)
		if !ok || seen[key] {
			return
		}
		seen[key] = true
		open.fill(&s, key)
		troubles = cmp.Or(troubles, sent.fill(&s, key.Service))
		out = append(out, s)
	})
	if err := errors.Join(err, troubles); err != nil {
		return nil, err
	}
	return append(out, open.left(i, names)...), nil
}

// eachOf walks a hash that others write to meanwhile. An entry that moves under the walk may come twice, or not.
func eachOf[K, V any](m *ebpf.Map, visit func(K, V)) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]K, readBatch), make([]V, readBatch)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !isMissing(err) {
			return fmt.Errorf("read %s: %w", m, err)
		}
		for j := range n {
			visit(keys[j], values[j])
		}
		if err != nil {
			return nil
		}
	}
}

func (i *Instance) source(k limiterSourceKey, v limiterSource, names map[uint32]string) (Source, bool) {
	addr := netAddr(k.Addr)
	if !addr.IsValid() {
		return Source{}, false
	}
	return Source{
		Prefix:   i.sourceOf(addr),
		Service:  names[k.Service],
		Admitted: v.Admitted, Refused: v.Refused,
		FirstSeen: wallTime(v.FirstSeenNs), LastSeen: wallTime(v.LastSeenNs),
		Sampled: v.Flags&uint32(limiterSourceFlagSOURCE_SAMPLED) != 0,
	}, true
}

// serviceNames are the names of services by the ids that counts are kept under.
func (i *Instance) serviceNames() (map[uint32]string, error) {
	var key uint32
	var name limiterServiceName
	names := map[uint32]string{}
	iter := i.maps.ServiceNames.Iterate()
	for iter.Next(&key, &name) {
		if name.Name[0] != 0 {
			names[key] = text(name.Name[:])
		}
	}
	if err := iter.Err(); err != nil {
		return nil, fmt.Errorf("read service names: %w", err)
	}
	return names, nil
}

// forgetService takes the lines of a service that is gone out of the ledger, before another has its id, or one of its
// name once more.
func (i *Instance) forgetService(id uint32, next string) error {
	var name limiterServiceName
	if err := i.maps.ServiceNames.Lookup(id, &name); err != nil {
		return fmt.Errorf("read service name: %w", err)
	}
	if name.Name[0] == 0 {
		return nil
	}
	if text(name.Name[:]) != next {
		if err := i.forgetBansOf(id); err != nil {
			return err
		}
	}
	var key limiterSourceKey
	var value limiterSource
	var gone []limiterSourceKey
	iter := i.maps.Sources.Iterate()
	for iter.Next(&key, &value) {
		if key.Service == id {
			gone = append(gone, key)
		}
	}
	// What the data path changed under the walk may be missed: such a line is shown under the new name.
	for _, key := range gone {
		if err := i.maps.Sources.Delete(key); err != nil && !isMissing(err) {
			return fmt.Errorf("forget sources of a service: %w", err)
		}
	}
	return nil
}
