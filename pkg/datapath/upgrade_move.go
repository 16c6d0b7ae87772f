// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
)

// moveCounts moves all that programs counted in the old maps: hits of the lists, the counters, the ledger. What
// the data path put on a list, or into the ledger, after the copy is added.
func moveCounts(from, to *pinnedMaps) error {
	for _, m := range listMapNames() {
		if err := moveHits(from, to, m); err != nil {
			return err
		}
	}
	if err := moveLedger(from, to); err != nil {
		return err
	}
	words, err := countWords(from.layout, to.layout)
	if err != nil {
		return err
	}
	if err := moveArray(from, to, limiterMapCounters, words); err != nil {
		return err
	}
	for _, name := range []string{limiterMapServiceCounters, limiterMapLimitCounters} {
		old, new, err := both(from, to, name)
		if err != nil {
			return err
		}
		words, err := fieldWords(old, new, "packets", "bytes")
		if err != nil {
			return err
		}
		if err := moveArray(from, to, name, words); err != nil {
			return err
		}
	}
	return nil
}

func both(from, to *pinnedMaps, name string) (old, new rawMap, err error) {
	if old, err = from.need(name); err == nil {
		new, err = to.need(name)
	}
	return old, new, err
}

// moveArray moves the counts of an array, which lie at the same places.
func moveArray(from, to *pinnedMaps, name string, words []carryCarryWord) error {
	old, new, err := both(from, to, name)
	if err != nil {
		return err
	}
	c, err := newCarrier(old.Map, new.Map, words)
	if err != nil {
		return err
	}
	defer c.close()
	var keys [][]byte
	for n := range min(old.MaxEntries(), new.MaxEntries()) {
		keys = append(keys, elementKey(n))
	}
	for len(keys) > 0 {
		n := min(len(keys), len(c.pairs))
		if _, err := c.move(keys[:n], keys[:n]); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// hashMover moves counts between two maps with keys of their own.
type hashMover struct {
	name string
	// key turns an old key into a new one.
	key func(out, old []byte) error
	// add makes the new entry for an old one, without its counts. It is false where there need not be any.
	add   func(newKey, oldKey, oldValue []byte) (bool, error)
	words []carryCarryWord
}

func (m hashMover) move(old, new rawMap) error {
	c, err := newCarrier(old.Map, new.Map, m.words)
	if err != nil {
		return err
	}
	defer c.close()
	keys := make([]byte, readBatch*int(new.KeySize()))
	return eachBatch(old.Map, func(b *rawBatch, n int) error {
		var olds, news, values [][]byte
		for j := range n {
			key := keys[j*int(new.KeySize()):][:new.KeySize()]
			if err := m.key(key, b.key(j)); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			olds, news, values = append(olds, b.key(j)), append(news, key), append(values, b.value(j))
		}
		missing, err := c.move(olds, news)
		if err != nil {
			return err
		}
		var againOld, againNew [][]byte
		for _, j := range missing {
			added, err := m.add(news[j], olds[j], values[j])
			if err != nil {
				return err
			}
			if added {
				againOld, againNew = append(againOld, olds[j]), append(againNew, news[j])
			}
		}
		if len(againOld) > 0 {
			_, err = c.move(againOld, againNew)
		}
		return err
	})
}

// errOtherFinishes: what was added in the old maps can be added to the new ones only by the version that made those.
var errOtherFinishes = errors.New("an upgrade was killed; finish it with the version that began it: synward upgrade")

func moveHits(from, to *pinnedMaps, m listMap) error {
	old, new, err := both(from, to, m.name)
	if err != nil {
		return err
	}
	words, err := fieldWords(old, new, "hits")
	if err != nil {
		return err
	}
	keys, err := planCopy(old.key, new.key)
	if err != nil {
		return err
	}
	late, err := newLateEntries(from, to, m)
	if err != nil {
		return err
	}
	return hashMover{name: m.name, key: keys.convert, add: late.add, words: words}.move(old, new)
}
