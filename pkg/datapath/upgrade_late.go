// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
)

// lateEntries adds to a list what the data path put on it behind the copy.
type lateEntries struct {
	*entryCarrier
	old *pinnedMaps
	to  *pinnedMaps
	out []byte
}

func newLateEntries(from, to *pinnedMaps, m listMap) (*lateEntries, error) {
	own, err := ownLayout()
	if err != nil {
		return nil, err
	}
	word, _, err := from.readWord()
	if err != nil {
		return nil, err
	}
	c, _, err := newEntryCarrier(m, from, own, word.generations())
	if err != nil {
		return nil, err
	}
	c.values.lenient = true
	return &lateEntries{entryCarrier: c, old: from, to: to, out: make([]byte, c.values.size)}, nil
}

// add writes one entry, unless it holds no more. Nothing can be refused any more: what this version has no place
// for in the entry is left behind, and an entry that makes no sense is. The index of another version's lists is not known here: there
// the version that made them has to do it.
func (l *lateEntries) add(newKey, oldKey, oldValue []byte) (bool, error) {
	key := make([]byte, l.keys.size)
	_, keep, err := l.convert(key, l.out, oldKey, oldValue)
	if err != nil || !keep {
		return false, nil
	}
	if l.to.abi != uint32(limiterAbiABI_VERSION) {
		return false, errOtherFinishes
	}
	control, err := mapShared[sharedControl](l.to.maps[pinControl])
	if err != nil {
		return false, err
	}
	defer control.close()
	tables, err := mapShared[sharedTables](l.to.maps[pinTables])
	if err != nil {
		return false, err
	}
	defer tables.close()
	p, _ := listMaps{}.prefixOf(as[limiterPrefixKey](key), l.trie)
	listIndex{&memory{control: control.value, tables: tables.value}}.set(p)
	return true, putNew(l.to.maps[l.name], newKey, l.out)
}

// putNew writes an entry unless there is one.
func putNew(m *ebpf.Map, key, value []byte) error {
	if err := m.Update(key, value, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write %s: %w", m, err)
	}
	return nil
}

// moveLedger adds up what both have counted of a source.
func (m countMove) moveLedger(from, to *pinnedMaps) error {
	c, err := newLineCarrier(m.old, m.new, from.layout, to.layout)
	if err != nil {
		return err
	}
	c.values.lenient = true // it is too late to refuse a line, and it decides nothing
	out := make([]byte, c.values.size)
	add := func(newKey, _, oldValue []byte) (bool, error) {
		if err := c.values.convert(out, oldValue); err != nil {
			return false, fmt.Errorf("ledger: %w", err)
		}
		return true, putNew(m.new.Map, newKey, out)
	}
	return hashMover{m, c.key, add}.run()
}
