// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"structs"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// sharedTables is struct tables of bpf/abi.h, and sharedControl struct control_words, with the types that
// the rest of this package has for their parts: what is generated gives elements of arrays no name.
type sharedTables struct {
	_           structs.HostLayout
	Meters      [limiterAbiMETER_BUCKETS]limiterBucket
	LimitStates [limiterAbiLIMIT_IDS]limiterLimitState
	ListIndex   [limiterAbiLIST_INDEX_WORDS]uint64
	ProofUntil  [limiterProofSizePROOF_SOURCES]uint32
	ProofLast   uint64 // in jiffies
	_           [7]uint64
	Limits      [limiterAbiPOLICY_SLOTS * limiterAbiMAX_LIMITS]limiterLimit
	Services    [limiterAbiPOLICY_SLOTS * limiterAbiMAX_SERVICES]limiterService
	Ports       [limiterAbiPOLICY_SLOTS]limiterPortTable
}

type sharedControl struct {
	_         structs.HostLayout
	Word      uint64
	Families  uint64
	Hash      hashOdd
	Last      uint64
	TickNs    uint64
	JiffiesNs uint64
	Policies  [limiterAbiPOLICY_SLOTS]limiterPolicy
	Feeds     limiterFeedWords
}

// They do not compile unless the last field lies where the generated one does.
const (
	_ = uint(unsafe.Offsetof(sharedTables{}.Ports) - unsafe.Offsetof(limiterTables{}.Ports))
	_ = uint(unsafe.Offsetof(limiterTables{}.Ports) - unsafe.Offsetof(sharedTables{}.Ports))
	_ = uint(unsafe.Offsetof(sharedControl{}.Feeds) - unsafe.Offsetof(limiterControlWords{}.Feeds))
	_ = uint(unsafe.Offsetof(limiterControlWords{}.Feeds) - unsafe.Offsetof(sharedControl{}.Feeds))
)

// shared is a map of one value, mapped into memory: what is stored there is what programs read, with no
// call in between.
type shared[T any] struct {
	memory []byte
	value  *T
}

func mapShared[T any](m *ebpf.Map) (shared[T], error) {
	var value *T
	size := int(unsafe.Sizeof(*value))
	if int(m.ValueSize()) != size {
		return shared[T]{}, fmt.Errorf("map %s into memory: its value has %d bytes, not %d", m, m.ValueSize(), size)
	}
	page := unix.Getpagesize()
	memory, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return shared[T]{}, fmt.Errorf("map %s into memory: %w", m, err)
	}
	// Safe: mmap returns whole pages, aligned for any word, and the value was found to have this size.
	return shared[T]{memory, (*T)(unsafe.Pointer(&memory[0]))}, nil
}

func (s shared[T]) close() error {
	if s.memory == nil {
		return nil
	}
	return unix.Munmap(s.memory)
}

// memory is what of an instance's maps is mapped.
type memory struct {
	control *sharedControl
	tables  *sharedTables
	closers []func() error
}

func (m *mapSet) mapMemory() (*memory, error) {
	control, err := mapShared[sharedControl](m.Control)
	if err != nil {
		return nil, err
	}
	tables, err := mapShared[sharedTables](m.Tables)
	if err != nil {
		return nil, errors.Join(err, control.close())
	}
	return &memory{control.value, tables.value, []func() error{control.close, tables.close}}, nil
}

func (m *memory) close() {
	for _, f := range m.closers {
		_ = f() // munmap of what was mapped cannot fail
	}
	m.closers = nil
}
