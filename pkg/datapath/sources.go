// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// readBatch is how many entries of a hash are read by one system call.
const readBatch = 8192

// Sources reads the whole ledger, in no order. What the data path writes meanwhile may be in it or
// not; an entry that moves under the read may come twice and is returned once.
func (i *Instance) Sources() ([]Source, error) {
	var cursor ebpf.MapBatchCursor
	keys := make([]limiterSourceKey, readBatch)
	values := make([]limiterSource, readBatch)
	seen := map[limiterSourceKey]int{}
	var out []Source
	for {
		n, err := i.maps.Sources.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("read sources: %w", err)
		}
		for j := range n {
			s, ok := source(keys[j], values[j])
			if !ok {
				continue
			}
			if at, twice := seen[keys[j]]; twice {
				out[at] = s
				continue
			}
			seen[keys[j]] = len(out)
			out = append(out, s)
		}
		if err != nil {
			return out, nil
		}
	}
}

func source(k limiterSourceKey, v limiterSource) (Source, bool) {
	addr := netAddr(k.Addr)
	if !addr.IsValid() {
		return Source{}, false
	}
	return Source{
		Prefix:   sourceOf(addr),
		Service:  DefaultService,
		Admitted: v.Admitted, Refused: v.Refused,
		FirstSeen: wallTime(v.FirstSeenNs), LastSeen: wallTime(v.LastSeenNs),
		Sampled: v.Flags&uint32(limiterSourceFlagSOURCE_SAMPLED) != 0,
	}, true
}
