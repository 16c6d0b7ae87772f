// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/policy"
)

// words is an mmapable array in memory: what is written there is what programs read, with no call in
// between.
type words struct {
	memory []byte
	all    []uint64
}

func mapWords(m *ebpf.Map) (*words, error) {
	size := int(m.ValueSize()+7) / 8 * 8 * int(m.MaxEntries())
	page := unix.Getpagesize()
	memory, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	// Safe: mmap returns whole pages, aligned for any word, and the slice ends inside them.
	return &words{memory, unsafe.Slice((*uint64)(unsafe.Pointer(&memory[0])), size/8)}, nil
}

func (w *words) close() error { return unix.Munmap(w.memory) }

// slots are the slots of buckets side by side.
func slots(buckets []limiterBucket) []uint64 {
	return unsafe.Slice(&buckets[0].Slot[0], len(buckets)*int(limiterAbiMETER_WAYS))
}

// drain makes every slot of a limit's region ownerless and owe nothing at a time of its clock.
func drain(t *sharedTables, l *limiterLimit, nowNs uint64) {
	l.region().clear(t, l.UnitShift, nowNs)
}

// drained is the slot of nobody: its TAT has passed.
func drained(l *limiterLimit, nowNs uint64) uint64 { return drainedAt(l.UnitShift, nowNs) }

// perSourceLimit is a limit of new connections of one source as a policy file has it.
func perSourceLimit(l policy.NewLimit) policy.Limit {
	return policy.Limit{
		Kind: policy.KindNew, Per: policy.PerSource, Prefix: policy.PrefixLengths{IPv4: 32, IPv6: 64},
		Rate: l.Rate, Burst: l.Burst, Over: policy.OverDrop,
	}
}

// burstOf is how many connections a limit admits at once.
func burstOf(l *limiterLimit) uint64 { return l.Capacity / l.Cost }
