// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// listMap is one of the maps that hold the lists.
type listMap struct {
	name string
	list List
	trie bool
}

func listMapNames() []listMap {
	return []listMap{
		{limiterMapAllowHosts, Allow, false}, {limiterMapAllowPrefixes, Allow, true},
		{limiterMapBlockHosts, Block, false}, {limiterMapBlockPrefixes, Block, true},
	}
}

// entryCarrier turns entries of another version's list into ours.
type entryCarrier struct {
	listMap
	keys, values *copyPlan
	policies     uint8 // the slots in force
	now          uint64
}

// newEntryCarrier: inForce are the generations that programs may judge by.
func newEntryCarrier(m listMap, from *pinnedMaps, own *layout, inForce []uint16) (*entryCarrier, rawMap, error) {
	old, err := from.need(m.name)
	if err != nil {
		return nil, old, err
	}
	c := &entryCarrier{listMap: m, now: monotonicNow()}
	for _, generation := range inForce {
		c.policies |= 1 << slotOfGeneration(generation)
	}
	c.keys, c.values, err = plans(old, own, m.name, "hits")
	return c, old, err
}

// convert writes an entry without its hits, which still move. It is false for one that holds no more.
func (c *entryCarrier) convert(key, value, oldKey, oldValue []byte) (e limiterListEntry, keep bool, err error) {
	if err := c.keys.convert(key, oldKey); err != nil {
		return e, false, fmt.Errorf("%s: %w", c.name, err)
	}
	if err := c.values.convert(value, oldValue); err != nil {
		return e, false, fmt.Errorf("%s: %w", c.name, err)
	}
	e = as[limiterListEntry](value)
	e.Policies &= c.policies
	if e.Policies == 0 && e.Feeds == 0 && (e.Listed == 0 || e.ExpiresNs != 0 && e.ExpiresNs <= c.now) {
		return e, false, nil
	}
	k := as[limiterPrefixKey](key)
	p, ok := listMaps{}.prefixOf(k, c.trie)
	if !ok || e.Prefixlen != k.Prefixlen || p != p.Masked() || e.Scope > uint8(limiterScopeSCOPE_NEW) {
		return e, false, errDamaged(fmt.Sprintf("%s list", c.list))
	}
	copy(value, rawOf(&e))
	return e, true, nil
}

// fillLists carries the lists over by batches; a million entries take a few seconds.
func (h *heir) fillLists() error {
	h.named = map[List]map[uint32]int{Allow: {}, Block: {}}
	for _, m := range listMapNames() {
		c, from, err := newEntryCarrier(m, h.from.pinnedMaps, h.from.own, h.from.inForce())
		if err != nil {
			return err
		}
		out := newRawBatch(c.keys.size, c.values.size, readBatch)
		to := *h.maps.byName()[m.name]
		err = eachBatch(from.Map, func(b *rawBatch, n int) error {
			filled := 0
			for j := range n {
				e, keep, err := c.convert(out.key(filled), out.value(filled), b.key(j), b.value(j))
				if err != nil {
					return err
				}
				if keep {
					h.noteEntry(m, out.key(filled), e)
					filled++
				}
			}
			return out.put(to, filled, ebpf.UpdateAny)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// noteEntry sets the entry's bits of the index, and counts it for the policies that name it.
func (h *heir) noteEntry(m listMap, key []byte, e limiterListEntry) {
	p, _ := listMaps{}.prefixOf(as[limiterPrefixKey](key), m.trie)
	listIndex{h.memory}.set(p)
	for slot := range uint32(limiterAbiPOLICY_SLOTS) {
		if e.Policies>>slot&1 != 0 {
			h.named[m.list][slot]++
		}
	}
}

// lineCarrier turns lines of another version's ledger into ours.
type lineCarrier struct {
	keys, values *copyPlan
	service      field
	none, noneTo uint32 // stand for no service, there and here
}

func newLineCarrier(from, to rawMap, old, new *layout) (c *lineCarrier, err error) {
	c = &lineCarrier{}
	if c.none, err = old.number("abi", "SERVICE_IDS"); err != nil {
		return nil, err
	}
	if c.noneTo, err = new.number("abi", "SERVICE_IDS"); err != nil {
		return nil, err
	}
	if c.keys, err = planCopy(from.key, to.key); err != nil {
		return nil, err
	}
	if c.values, err = planCopy(from.value, to.value, "admitted", "refused"); err != nil {
		return nil, err
	}
	r, err := newReader(to.key)
	if err == nil {
		err = r.want("service")
	}
	c.service = r["service"]
	if err == nil && c.service.size != 4 {
		err = fmt.Errorf("read layout: a service has %d bytes", c.service.size)
	}
	return c, err
}

func (c *lineCarrier) key(out, old []byte) error {
	if err := c.keys.convert(out, old); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if at := out[c.service.at:][:4]; binary.LittleEndian.Uint32(at) == c.none {
		binary.LittleEndian.PutUint32(at, c.noneTo)
	}
	return nil
}

// fillSources carries the ledger over without its counts, those seen last at the end: they are the last to go.
func (h *heir) fillSources() error {
	from, err := h.from.need(limiterMapSources)
	if err != nil {
		return err
	}
	to := rawMap{Map: h.maps.Sources}
	if to.key, err = h.from.own.key(limiterMapSources); err != nil {
		return err
	}
	if to.value, err = h.from.own.value(limiterMapSources); err != nil {
		return err
	}
	c, err := newLineCarrier(from, to, h.from.layout, h.from.own)
	if err != nil {
		return err
	}
	type line struct{ key, value []byte }
	var lines []line
	err = eachBatch(from.Map, func(b *rawBatch, n int) error {
		for j := range n {
			l := line{make([]byte, c.keys.size), make([]byte, c.values.size)}
			if err := c.key(l.key, b.key(j)); err != nil {
				return err
			}
			if err := c.values.convert(l.value, b.value(j)); err != nil {
				return fmt.Errorf("ledger: %w", err)
			}
			lines = append(lines, l)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Compare(as[limiterSource](a.value).LastSeenNs, as[limiterSource](b.value).LastSeenNs)
	})
	out := newRawBatch(c.keys.size, c.values.size, readBatch)
	for part := range slices.Chunk(lines, readBatch) {
		for n, l := range part {
			copy(out.key(n), l.key)
			copy(out.value(n), l.value)
		}
		if err := out.put(h.maps.Sources, len(part), ebpf.UpdateAny); err != nil {
			return err
		}
	}
	return nil
}
