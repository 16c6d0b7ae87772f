// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
)

// moveCounts moves all that programs counted in the old maps: hits of the lists, the counters, the ledger. What
// the data path put on a list, or into the ledger, after the copy is added.
func moveCounts(from, to *pinnedMaps) error {
	all, err := countMoves(from, to)
	if err != nil {
		return err
	}
	for _, m := range all {
		if err := m.move(from, to); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// tryMoves finds out whether this kernel can do it, before anything is touched.
func tryMoves(from, to *pinnedMaps) error {
	all, err := countMoves(from, to)
	if err != nil {
		return err
	}
	for _, m := range all {
		c, err := newCarrier(m.old.Map, m.new.Map, m.words)
		if err == nil {
			err = c.close()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// countMove is a map whose counts are moved.
type countMove struct {
	name     string
	old, new rawMap
	words    []carryCarryWord
	list     *listMap
}

// countMoves are all of them.
func countMoves(from, to *pinnedMaps) ([]countMove, error) {
	counted := map[string][]string{
		limiterMapSources: {"admitted", "refused"}, limiterMapCounters: nil,
		limiterMapServiceCounters: {"packets", "bytes"}, limiterMapLimitCounters: {"packets", "bytes"},
		limiterMapBans: {"hits"}, limiterMapBanTallies: {"strikes", "bans", "spared", "unfit"},
		limiterMapConnTallies: {"refused", "opened", "returned", "late", "full", "unheld", "contended", "lost"},
	}
	lists := map[string]*listMap{}
	for _, m := range listMapNames() {
		counted[m.name], lists[m.name] = []string{"hits"}, &m
	}
	var out []countMove
	for name, fields := range counted {
		if !from.has(name) {
			continue // younger than that version
		}
		m := countMove{name: name, list: lists[name]}
		var err error
		if m.old, m.new, err = both(from, to, name); err != nil {
			return nil, err
		}
		if fields == nil {
			m.words, err = countWords(from.layout, to.layout)
		} else {
			m.words, err = fieldWords(m.old, m.new, fields...)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func (m countMove) move(from, to *pinnedMaps) error {
	switch {
	case m.list != nil:
		return m.moveHits(from, to)
	case m.name == limiterMapSources:
		return m.moveLedger(from, to)
	case m.name == limiterMapBans:
		return m.moveBans(to)
	}
	return m.moveArray()
}

func both(from, to *pinnedMaps, name string) (old, new rawMap, err error) {
	if old, err = from.need(name); err == nil {
		new, err = to.need(name)
	}
	return old, new, err
}

// moveArray moves the counts of an array, which lie at the same places.
func (m countMove) moveArray() error {
	c, err := newCarrier(m.old.Map, m.new.Map, m.words)
	if err != nil {
		return err
	}
	defer c.close()
	var keys [][]byte
	for n := range min(m.old.MaxEntries(), m.new.MaxEntries()) {
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
	countMove
	// key turns an old key into a new one.
	key func(out, old []byte) error
	// add makes the new entry for an old one, without its counts. It is false where there need not be any.
	add func(newKey, oldKey, oldValue []byte) (bool, error)
}

func (m hashMover) run() error {
	c, err := newCarrier(m.old.Map, m.new.Map, m.words)
	if err != nil {
		return err
	}
	defer c.close()
	size := int(m.new.KeySize())
	keys := make([]byte, readBatch*size)
	return eachBatch(m.old.Map, func(b *rawBatch, n int) error {
		var olds, news, values [][]byte
		for j := range n {
			key := keys[j*size:][:size]
			if err := m.key(key, b.key(j)); err != nil {
				return err
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

func (m countMove) moveHits(from, to *pinnedMaps) error {
	keys, err := planCopy(m.old.key, m.new.key)
	if err != nil {
		return err
	}
	late, err := newLateEntries(from, to, *m.list)
	if err != nil {
		return err
	}
	return hashMover{m, keys.convert, late.add}.run()
}
