// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"sync/atomic"
	"time"
)

// live is the word that says which policy is in force; see struct control_words in bpf/abi.h.
type live struct {
	generation uint16
	// fallback is in force from the deadline on, in seconds of CLOCK_MONOTONIC; 0 is none.
	fallback uint16
	deadline uint32
}

func (l live) word() uint64 {
	return uint64(l.generation) | uint64(l.fallback)<<16 | uint64(l.deadline)<<32
}

func liveOf(word uint64) live {
	return live{generation: uint16(word), fallback: uint16(word >> 16), deadline: uint32(word >> 32)}
}

// pending: a rollback will come unless somebody confirms.
func (l live) pending(nowNs uint64) bool { return l.deadline != 0 && !l.lapsed(nowNs) }

func (l live) lapsed(nowNs uint64) bool {
	return l.deadline != 0 && nowNs >= uint64(l.deadline)*uint64(time.Second)
}

// inForce is the generation that programs judge by at this instant.
func (l live) inForce(nowNs uint64) uint16 {
	if l.lapsed(nowNs) {
		return l.fallback
	}
	return l.generation
}

// left is how long it is to the rollback.
func (l live) left(nowNs uint64) time.Duration {
	return time.Duration(uint64(l.deadline)*uint64(time.Second) - nowNs)
}

// slotOf is where a generation's policy lies.
func slotOfGeneration(generation uint16) uint32 {
	return uint32(generation) % uint32(limiterAbiPOLICY_SLOTS)
}

func (m *memory) live() live { return liveOf(atomic.LoadUint64(&m.control.Word)) }

// swap flips the word in one store, if it is still what was read.
func (m *memory) swap(before, after live) bool {
	return atomic.CompareAndSwapUint64(&m.control.Word, before.word(), after.word())
}

// nextGeneration is the lowest above all that were ever given whose slot is not in use. It skips 0, which
// stands for none.
func (m *memory) nextGeneration(nowNs uint64) uint16 {
	l := m.live()
	taken := []uint16{l.inForce(nowNs)}
	if l.pending(nowNs) {
		taken = append(taken, l.fallback)
	}
	for next := uint16(m.control.Last) + 1; ; next++ {
		free := next != 0
		for _, g := range taken {
			free = free && slotOfGeneration(g) != slotOfGeneration(next)
		}
		if free {
			return next
		}
	}
}
