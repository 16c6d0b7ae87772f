// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// carrier moves counts from one map to another while programs count in the latter; see bpf/carry.bpf.c. What it
// has moved is gone from the old map, so it may be done again after a kill at any moment.
type carrier struct {
	coll  *ebpf.Collection
	pairs []carryCarryPair
	plan  []carryCarryWord
	// lanes is how many CPUs count by themselves in the old map, 1 where it is not per CPU.
	lanes int
	unmap func() error
}

// carrySteps is how much one run does: about two milliseconds, in which nothing else runs on its CPU.
const carrySteps = 8192

func newCarrier(from, to *ebpf.Map, plan []carryCarryWord) (*carrier, error) {
	if len(plan) == 0 || len(plan) > int(carryCarryCARRY_WORDS) || from.KeySize() > uint32(carryCarryCARRY_KEY_BYTES) ||
		to.KeySize() > uint32(carryCarryCARRY_KEY_BYTES) {
		return nil, fmt.Errorf("carry counts of %s: %d counts in a value are too many", from, len(plan))
	}
	for _, word := range plan {
		if word.From%8 != 0 || word.To%8 != 0 || word.From+8 > from.ValueSize() || word.To+8 > to.ValueSize() {
			return nil, fmt.Errorf("carry counts of %s: they lie where none can", from)
		}
	}
	spec, err := loadCarry()
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	c := &carrier{plan: plan, lanes: 1}
	perCPU := uint32(0)
	if from.Type() == ebpf.PerCPUArray {
		if c.lanes, err = ebpf.PossibleCPU(); err != nil {
			return nil, fmt.Errorf("count CPUs: %w", err)
		}
		perCPU = uint32(c.lanes)
	}
	for name, value := range map[string]uint32{
		carryVarFromBytes: from.ValueSize(), carryVarToBytes: to.ValueSize(), carryVarWords: uint32(len(plan)), carryVarCpus: perCPU,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	stand(spec.Maps[carryMapFrom], from)
	stand(spec.Maps[carryMapTo], to)
	c.coll, err = ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{carryMapFrom: from, carryMapTo: to},
	})
	if err != nil {
		return nil, loadError(err)
	}
	if err := c.prepare(); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// stand makes the description of a map that of another.
func stand(spec *ebpf.MapSpec, m *ebpf.Map) {
	spec.Type, spec.KeySize, spec.ValueSize, spec.MaxEntries, spec.Flags = m.Type(), m.KeySize(), m.ValueSize(), m.MaxEntries(), m.Flags()
	spec.Key, spec.Value = nil, nil
}

func (c *carrier) prepare() error {
	for n, word := range c.plan {
		if err := c.coll.Maps[carryMapPlan].Put(uint32(n), word); err != nil {
			return fmt.Errorf("write plan: %w", err)
		}
	}
	pairs := c.coll.Maps[carryMapPairs]
	size := int(pairs.MaxEntries()) * int(unsafe.Sizeof(carryCarryPair{}))
	memory, err := unix.Mmap(pairs.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %s into memory: %w", pairs, err)
	}
	c.unmap = func() error { return unix.Munmap(memory) }
	// Safe: whole pages, and an array's elements lie at multiples of 8 bytes, as those of the slice do.
	c.pairs = unsafe.Slice((*carryCarryPair)(unsafe.Pointer(&memory[0])), pairs.MaxEntries())
	return nil
}

func (c *carrier) close() error {
	var err error
	if c.unmap != nil {
		err = c.unmap()
	}
	c.coll.Close()
	return err
}

// move moves what lies under keys of the old map to the same place of keys of the new one, and returns which
// have no place there: nothing was moved of those. There may be as many as fit into one batch.
func (c *carrier) move(from, to [][]byte) (missing []int, err error) {
	if len(from) > len(c.pairs) || len(from) != len(to) {
		return nil, fmt.Errorf("carry counts: %d are no batch", len(from))
	}
	for n := range from {
		p := &c.pairs[n]
		p.Missing = 0
		copy(p.From[:], from[n])
		copy(p.To[:], to[n])
	}
	all := uint32(len(from) * len(c.plan) * c.lanes)
	for first := uint32(0); first < all; first += carrySteps {
		if err := c.run(first, min(all-first, carrySteps)); err != nil {
			return nil, err
		}
	}
	for n := range from {
		if c.pairs[n].Missing != 0 {
			missing = append(missing, n)
		}
	}
	return missing, nil
}

func (c *carrier) run(first, steps uint32) error {
	packet := make([]byte, 64)
	binary.NativeEndian.PutUint32(packet, first)
	binary.NativeEndian.PutUint32(packet[4:], steps)
	for {
		_, err := c.coll.Programs[carryProgCarryCounts].Run(&ebpf.RunOptions{Data: packet})
		if errors.Is(err, unix.EINTR) {
			continue // what it has moved already is moved
		}
		if err != nil {
			return fmt.Errorf("carry counts: %w", err)
		}
		return nil
	}
}
