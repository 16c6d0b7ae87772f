// SPDX-License-Identifier: Apache-2.0

package datapath

import "fmt"

// The model is meter_charge (bpf/meters.h) with each load of a slot and each compare-and-swap as a
// step of its own, on a bucket of few ways, so that every order of the steps of several CPUs can be
// tried. TATs and clocks are small numbers that wrap at modelWrap. The borrowed bit is left out: it
// decides no admission.

const (
	modelMaxWays = 3
	modelMaxCPUs = 3
	modelKeys    = 4
	modelWrap    = 64
	modelTries   = 3
	// modelNow is a clock; others are a tick ahead.
	modelNow = 20
)

type modelSlot struct{ tag, tat int8 }

// modelCharge is one decision: a key under its limit, at the time that the CPU has read.
type modelCharge struct {
	key, now       int8
	cost, capacity int8
}

// scenario is what the CPUs are to do, on which table, by which rules.
type scenario struct {
	ways  int
	slots [modelMaxWays]modelSlot
	work  [][]modelCharge // by CPU, at most modelMaxCPUs
	stale int8
	rules modelRules
}

// modelRules are those of bpf/meters.h, or what a fault would make of them.
type modelRules struct {
	clamped      bool // the victim is the one with the least level, and not the oldest raw TAT
	noSecondLook bool // the slots are not looked through for the key again before one is taken over
	noCAS        bool // a slot is written without a look at what it holds
}

// The phases of one try.
const (
	phaseScan = iota
	phaseInsert
	phaseReread
	phaseSwap
)

type modelCPU struct {
	charge, phase, way, tries int8
	victim                    int8
	rank                      int16 // of the victim
	old                       modelSlot
}

// modelState is all that decides how things go on. Comparable, so that states are visited once.
type modelState struct {
	slots    [modelMaxWays]modelSlot
	cpus     [modelMaxCPUs]modelCPU
	admitted [modelKeys]int8
}

// level is slot_level: how far a TAT lies ahead of now, 0 if it is past or has wrapped around.
func (s *scenario) level(slot modelSlot, now int8) int16 {
	distance := int16(slot.tat-now) & (modelWrap - 1)
	if distance > int16(s.stale) {
		return 0
	}
	return distance
}

// rank is slot_rank: where a TAT lies on the circle that begins behind the youngest that there can be.
func (s *scenario) rank(slot modelSlot, now, way int8) int16 {
	if s.rules.clamped {
		return s.level(slot, now)*8 + int16(way)
	}
	age := (int16(slot.tat) - int16(now) - int16(s.stale) - 1) & (modelWrap - 1)
	return age*8 + int16(way)
}

// step takes one step of a CPU. done: it has nothing left to do.
func (s *scenario) step(state modelState, cpu int) (next modelState, done bool) {
	c := &state.cpus[cpu]
	if int(c.charge) == len(s.work[cpu]) {
		return state, true
	}
	charge := s.work[cpu][c.charge]
	switch c.phase {
	case phaseScan:
		s.scan(&state, c, charge)
	case phaseInsert:
		s.insert(&state, c, charge)
	case phaseReread:
		c.old = state.slots[c.victim]
		if s.rank(c.old, charge.now, c.victim) != c.rank {
			s.retry(c)
			break
		}
		s.decide(c, charge)
	case phaseSwap:
		s.swap(&state, c, charge)
	}
	return state, false
}

func (s *scenario) scan(state *modelState, c *modelCPU, charge modelCharge) {
	slot := state.slots[c.way]
	if slot.tag == charge.key {
		c.old, c.victim = slot, c.way
		s.decide(c, charge)
		return
	}
	if c.way++; int(c.way) == s.ways {
		c.phase, c.way, c.rank = phaseInsert, 0, 1<<14
	}
}

func (s *scenario) insert(state *modelState, c *modelCPU, charge modelCharge) {
	slot := state.slots[c.way]
	if slot.tag == charge.key && !s.rules.noSecondLook {
		s.retry(c)
		return
	}
	if rank := s.rank(slot, charge.now, c.way); rank < c.rank {
		c.rank, c.victim = rank, c.way
	}
	if c.way++; int(c.way) == s.ways {
		c.phase = phaseReread
	}
}

// decide refuses, or goes on to the compare-and-swap. No step: it looks at nothing that is shared.
func (s *scenario) decide(c *modelCPU, charge modelCharge) {
	if level := s.level(c.old, charge.now); level+int16(charge.cost) > int16(charge.capacity) {
		c.finish()
		return
	}
	c.phase = phaseSwap
}

func (s *scenario) swap(state *modelState, c *modelCPU, charge modelCharge) {
	if state.slots[c.victim] != c.old && !s.rules.noCAS {
		s.retry(c)
		return
	}
	level := int8(s.level(c.old, charge.now))
	state.slots[c.victim] = modelSlot{charge.key, (charge.now + level + charge.cost) & (modelWrap - 1)}
	state.admitted[charge.key]++
	c.finish()
}

func (s *scenario) retry(c *modelCPU) {
	tries := c.tries + 1
	if tries == modelTries {
		c.finish()
		return
	}
	*c = modelCPU{charge: c.charge, tries: tries}
}

func (c *modelCPU) finish() { *c = modelCPU{charge: c.charge + 1} }

// explore tries every order of the steps and returns the first fault and how many states it saw.
func (s *scenario) explore() (fault string, states int) {
	start := modelState{slots: s.slots}
	seen := map[modelState]bool{start: true}
	for stack := []modelState{start}; len(stack) > 0; {
		state := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for cpu := range s.work {
			next, done := s.step(state, cpu)
			if done || seen[next] {
				continue
			}
			if fault := s.fault(state, next); fault != "" {
				return fault, len(seen)
			}
			seen[next] = true
			stack = append(stack, next)
		}
	}
	return "", len(seen)
}

// fault says what a step broke: a key is in two slots, a slot that owed something went back in time,
// or a key was admitted more often than B + W/T.
func (s *scenario) fault(before, after modelState) string {
	for way := range s.ways {
		was, is := before.slots[way], after.slots[way]
		if s.level(was, modelNow) > 0 && (is.tat-was.tat)&(modelWrap-1) > modelWrap/2 {
			return fmt.Sprintf("slot %d lost what it owed: %v became %v", way, was, is)
		}
		for other := range way {
			if is.tag == after.slots[other].tag {
				return fmt.Sprintf("key %d is in slots %d and %d: %v", is.tag, other, way, after.slots)
			}
		}
	}
	for _, work := range s.work {
		for _, c := range work {
			if n := after.admitted[c.key]; n > s.allowed(c) {
				return fmt.Sprintf("key %d admitted %d times, limit %d of cost %d", c.key, n, c.capacity/c.cost, c.cost)
			}
		}
	}
	return ""
}

// allowed is B + W/T over the clocks that this key's charges were made at.
func (s *scenario) allowed(of modelCharge) int8 {
	first, last := int8(127), int8(-128)
	for _, work := range s.work {
		for _, c := range work {
			if c.key == of.key {
				first, last = min(first, c.now), max(last, c.now)
			}
		}
	}
	return (of.capacity + last - first) / of.cost
}
