// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"
)

// A model of bpf/conns_table.h and conns_note.h: CPUs whose every access to what they share is a step, and all orders of
// those steps. Memory of the hash map is two cells, which go from key to key as entries are deleted and made.

const (
	connModelCPUs  = 2
	connModelCells = 2
	connModelKeys  = 3 // 1 and 2; 0 is none
)

// connOp is what a CPU does: an ACK that makes a connection and closes it at once or at the end, or one that
// makes none.
type connOp struct {
	key   int8
	makes bool
	keeps bool
}

// connCell is an entry of the map, or memory of none (key 0).
type connCell struct {
	key      int8
	est, res int8
	dead     bool
}

// The steps of a CPU, in the order of an ACK that makes a connection.
const (
	stepBegin    int8 = iota // the gate's next run: take the note, if one is there
	stepReturn               // give back its reservation
	stepReturned             // delete
	stepLook                 // find the entry
	stepSwap                 // one more reserved, by compare-and-swap
	stepVerify               // is the entry still the key's?
	stepUndo
	stepNote
	stepMove // reserved to established
	stepGive // one established less
	stepDelete
	stepEnd
)

type connCPU struct {
	op   int8
	step int8
	note int8 // the key that is reserved, 0: none
	cell int8 // what was found
	seen connCell
	held [connModelKeys]int8
	// giving is the key whose count is given back, held ones at the end.
	giving int8
}

type connState struct {
	cells [connModelCells]connCell
	cpus  [connModelCPUs]connCPU
	// established is the truth.
	established [connModelKeys]int8
}

// connRules leave out a part of the protocol, to show that the model needs it.
type connRules struct{ noVerify, noCAS, noDead, noReturn bool }

type connModel struct {
	limit int8
	work  [connModelCPUs][]connOp
	rules connRules
	seen  map[connState]bool
	fault string
}

func (s *connState) find(key int8) int8 {
	for n := range s.cells {
		if s.cells[n].key == key {
			return int8(n)
		}
	}
	return -1
}

// insert is an update of the map that fails if the key is there; the memory of the last one that was deleted is
// used first.
func (s *connState) insert(key int8) bool {
	free := s.find(0)
	if s.find(key) >= 0 || free < 0 {
		return false
	}
	s.cells[free] = connCell{key: key, res: 1}
	return true
}

// take is conn_take: find, then swap, then look again.
func (m *connModel) take(s *connState, c *connCPU, key int8) {
	cell := &s.cells[max(c.cell, 0)]
	switch c.step {
	case stepLook:
		if c.cell = s.find(key); c.cell < 0 {
			if s.insert(key) {
				c.step = stepNote
			}
			return
		}
		c.seen = s.cells[c.cell]
		switch {
		case c.seen.dead:
		case c.seen.est+c.seen.res >= m.limit:
			c.op, c.step = c.op+1, stepBegin // refused
		default:
			c.step = stepSwap
		}
	case stepSwap:
		// The word alone is compared: whose it is the swap cannot see.
		same := cell.est == c.seen.est && cell.res == c.seen.res && !cell.dead
		if m.rules.noCAS {
			cell.est, cell.res, same = c.seen.est, c.seen.res, true
		}
		c.step = stepLook
		if same {
			cell.res++
			c.step = stepVerify
		}
	case stepVerify:
		c.step = stepNote
		if s.find(key) != c.cell && !m.rules.noVerify {
			c.step = stepUndo
		}
	case stepUndo:
		cell.res--
		c.step = stepLook
	}
}

// give is conn_give: one swap, which also says who deletes, then the delete.
func (m *connModel) give(s *connState, c *connCPU, reserved bool) (last bool) {
	n := s.find(c.giving)
	if n < 0 {
		m.fault = "a count is lost"
		return false
	}
	cell := &s.cells[n]
	if reserved {
		cell.res--
	} else {
		cell.est--
		s.established[c.giving]--
	}
	if cell.est < 0 || cell.res < 0 {
		m.fault = "a count is below zero"
	}
	last = cell.est == 0 && cell.res == 0
	cell.dead = last && !m.rules.noDead
	return last
}

func (s *connState) remove(key int8) {
	if n := s.find(key); n >= 0 {
		s.cells[n] = connCell{}
	}
}

// begin is the start of the gate, or what is left to do when there is no more work.
func (m *connModel) begin(s *connState, c *connCPU, work []connOp) {
	switch {
	case c.note != 0 && !m.rules.noReturn:
		c.giving, c.note, c.step = c.note, 0, stepReturn
	case int(c.op) < len(work):
		c.step = stepLook
	default:
		c.step = stepEnd
		for key := range c.held {
			if c.held[key] > 0 {
				c.giving, c.step = int8(key), stepGive
				c.held[key]--
				return
			}
		}
	}
}

// step takes the next step of a CPU.
func (m *connModel) step(s connState, cpu int) connState {
	c, work := &s.cpus[cpu], m.work[cpu]
	switch c.step {
	case stepBegin:
		m.begin(&s, c, work)
	case stepReturn, stepGive:
		c.step++
		if !m.give(&s, c, c.step == stepReturned) {
			c.step = stepBegin
		}
	case stepReturned, stepDelete:
		s.remove(c.giving)
		c.step = stepBegin
	case stepNote:
		c.note, c.step = work[c.op].key, stepMove
		if !work[c.op].makes {
			c.op, c.step = c.op+1, stepBegin
		}
	case stepMove:
		m.move(&s, c, work[c.op])
	default:
		m.take(&s, c, work[c.op].key)
	}
	return s
}

func (m *connModel) move(s *connState, c *connCPU, op connOp) {
	n := s.find(op.key)
	if n < 0 || s.cells[n].res == 0 {
		m.fault = "a reservation is lost"
		return
	}
	s.cells[n].res--
	s.cells[n].est++
	s.established[op.key]++
	if s.established[op.key] > m.limit {
		m.fault = fmt.Sprintf("%d of key %d, limit %d", s.established[op.key], op.key, m.limit)
	}
	c.note, c.op, c.step = 0, c.op+1, stepBegin
	if op.keeps {
		c.held[op.key]++
		return
	}
	c.giving, c.step = op.key, stepGive
}

func (m *connModel) explore(s connState) {
	if m.fault != "" || m.seen[s] {
		return
	}
	m.seen[s] = true
	ended := true
	for cpu := range s.cpus {
		if s.cpus[cpu].step != stepEnd {
			ended = false
			m.explore(m.step(s, cpu))
		}
	}
	if !ended {
		return
	}
	for _, cell := range s.cells {
		if cell.est != 0 || cell.res != 0 || cell.dead {
			m.fault = fmt.Sprintf("at the end there is %+v", cell)
		}
	}
}

// connWorks are all lists of so many operations.
func connWorks(count int) (out [][]connOp) {
	out = [][]connOp{nil}
	for range count {
		var longer [][]connOp
		for _, w := range out {
			for key := int8(1); key < connModelKeys; key++ {
				for _, op := range []connOp{{key, true, true}, {key, true, false}, {key, false, false}} {
					longer = append(longer, append(w[:len(w):len(w)], op))
				}
			}
		}
		out = longer
	}
	return out
}

func exploreConns(count int, rules connRules) (fault string, scenarios, states int) {
	works := connWorks(count)
	for _, limit := range []int8{1, 2} {
		for n, first := range works {
			for _, second := range works[n:] {
				m := connModel{limit: limit, work: [connModelCPUs][]connOp{first, second}, rules: rules, seen: map[connState]bool{}}
				m.explore(connState{})
				scenarios, states = scenarios+1, states+len(m.seen)
				if m.fault != "" {
					return fmt.Sprintf("%s; limit %d, %+v", m.fault, limit, m.work), scenarios, states
				}
			}
		}
	}
	return "", scenarios, states
}

// In no order of their steps do CPUs establish more connections than the limit, lose a place or keep one.
func TestModelNoOrderOfStepsBreaksTheCounts(t *testing.T) {
	t.Parallel()
	for _, count := range []int{1, 2} {
		fault, scenarios, states := exploreConns(count, connRules{})
		t.Logf("%d ACKs for each of %d CPUs: %d scenarios, %d states", count, connModelCPUs, scenarios, states)
		if fault != "" {
			t.Error(fault)
		}
	}
}

// The model finds the faults that it is there for.
func TestModelOfCountsFindsFaults(t *testing.T) {
	for name, rules := range map[string]connRules{
		"no second look":      {noVerify: true},
		"no compare-and-swap": {noCAS: true},
		"no mark of the dead": {noDead: true},
		"no note given back":  {noReturn: true},
	} {
		fault, _, _ := exploreConns(2, rules)
		if fault == "" {
			t.Errorf("%s: no fault found", name)
		}
		t.Logf("%s: %s", name, fault)
	}
}
