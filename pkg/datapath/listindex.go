// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
)

// The list index as writers see it; bpf/index.h says what it is and how it is read.
const (
	indexOdd = 0x9e3779b97f4a7c15
	// The upper bits of an address that the bitmaps of prefixes have a bit for: itself, or a hash of it.
	indexBits4     = 22
	indexBits6     = 32
	indexHashShift = 10
	// indexAllShorter6: a shorter IPv6 prefix sets every bit, for it covers more hashes than there are.
	indexAllShorter6 = 12
)

// listIndex sets the bits of prefixes. They are set before the entry is inserted.
type listIndex struct{ *memory }

// indexHalf is one of the two halves of the index; see bpf/index.h.
type indexHalf struct {
	*memory
	number uint64
}

func (x listIndex) half(n uint64) indexHalf { return indexHalf{x.memory, n} }

// set marks every bit that an address of the prefix may look at, in the half that programs read, and in the other
// as well while that is built anew.
func (x listIndex) set(l List, p netip.Prefix) {
	word := atomic.LoadUint64(&x.control.Lists)
	inUse := halfInUse(word)
	holds := x.half(inUse).set(l, p)
	if word&uint64(limiterListIndexBitsINDEX_WRITE_BOTH) != 0 {
		x.half(1-inUse).set(l, p)
		holds |= holds << limiterListIndexBitsINDEX_HOLDS_BITS
	}
	// Last the bits that say that there is such a thing at all: they are what programs ask for first.
	setBits(&x.control.Lists, holds)
}

func halfInUse(word uint64) uint64 {
	if word&uint64(limiterListIndexBitsINDEX_HALF) != 0 {
		return 1
	}
	return 0
}

// set returns the bit that says what it is that the half holds.
func (h indexHalf) set(l List, p netip.Prefix) (holds uint64) {
	holds = uint64(limiterListIndexBitsINDEX_PREFIXES)
	if inHosts(p) {
		holds = uint64(limiterListIndexBitsINDEX_HOSTS)
		h.setHost(l, p)
	} else {
		high, low := halves(p.Masked().Addr())
		what, number := lengthBit(l, p)
		hash := entryHash(high, low, number, what)
		h.setEntry(hash, hashBits(hash))
		setBits(&h.tables.Index.Lengths[h.number<<3|what], 1<<number)
		h.setPrefix(p)
	}
	if p.Addr().Is6() {
		holds <<= uint64(limiterListIndexBitsINDEX_FAMILY_BITS)
	}
	return holds
}

// halves are the upper and lower 64 bits of an address; IPv4 begins at the top as well.
func halves(a netip.Addr) (high, low uint64) {
	var b [16]byte
	copy(b[:], a.AsSlice())
	return binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])
}

// hashBits are the three bits of a word that a hash names.
func hashBits(hash uint64) uint64 {
	return 1<<(hash>>40&63) | 1<<(hash>>34&63) | 1<<(hash>>28&63)
}

// setHost enters IPv6 by its /64. Which list it is on is told by other bits of the word.
func (h indexHalf) setHost(l List, p netip.Prefix) {
	high, _ := halves(p.Addr())
	x, what := high>>32, uint64(1)
	if p.Addr().Is6() {
		x, what = high^high>>32, 3
	}
	hash := entryHash(high, 0, 63, what)
	if l == Allow {
		h.setEntry(hash, hashBits(hash<<18))
	} else {
		h.setEntry(hash, hashBits(hash))
	}
	x *= indexOdd
	at := h.number*uint64(limiterListIndexBitsINDEX_HOST_WORDS) | x>>(64-limiterListIndexBitsINDEX_HOST_SHIFT)
	setBits(&h.tables.Index.Hosts[at], hashBits(x))
}

func entryHash(high, low, number, what uint64) uint64 {
	x := (high ^ low>>7 ^ (number<<3|what)<<48) * indexOdd
	return (x ^ x>>32) * indexOdd
}

func (h indexHalf) setEntry(hash, bits uint64) {
	at := h.number*uint64(limiterListIndexBitsINDEX_ENTRY_WORDS) | hash>>(64-limiterListIndexBitsINDEX_ENTRY_SHIFT)
	setBits(&h.tables.Index.Entries[at], bits)
}

// lengthBit is which set of lengths one belongs to, and its bit there.
func lengthBit(l List, p netip.Prefix) (what, number uint64) {
	what = uint64(l.id()) << 2
	length := p.Bits()
	if p.Addr().Is6() {
		what |= 2
	}
	if length >= 64 {
		what |= 1
		length -= 64
	}
	return what, uint64(63 - length)
}

// lengthInUse: a list may hold prefixes as long as p.
func (x listIndex) lengthInUse(l List, p netip.Prefix) bool {
	what, number := lengthBit(l, p)
	inUse := halfInUse(atomic.LoadUint64(&x.control.Lists))
	return atomic.LoadUint64(&x.tables.Index.Lengths[inUse<<3|what])>>number&1 != 0
}

func (h indexHalf) setPrefix(p netip.Prefix) {
	words := uint64(limiterListIndexBitsINDEX_PREFIX_WORDS)
	if p.Addr().Is4() {
		first, n := span(p, indexBits4)
		setRange(h.tables.Index.Prefixes4[h.number*words:][:words], first, n)
		return
	}
	bitmap := h.tables.Index.Prefixes6[h.number*words:][:words]
	if p.Bits() < indexAllShorter6 {
		setRange(bitmap, 0, words*64)
		return
	}
	first, n := span(p, indexBits6)
	for top := first; top < first+n; top++ {
		hash := uint32(top) * uint32(indexOdd>>32) >> indexHashShift
		setRange(bitmap, uint64(hash), 1)
	}
}

// span is which values the upper bits of the prefix's addresses take: the first, and how many.
func span(p netip.Prefix, upper int) (first, n uint64) {
	high, _ := halves(p.Masked().Addr())
	first = high >> (64 - upper)
	if p.Bits() >= upper {
		return first, 1
	}
	return first, 1 << (upper - p.Bits())
}

func setRange(words []uint64, first, n uint64) {
	for end := first + n; first < end; {
		bit := first % 64
		run := min(64-bit, end-first)
		setBits(&words[first/64], (^uint64(0)>>(64-run))<<bit)
		first += run
	}
}

// setBits writes only if that changes something, for programs read the word.
func setBits(word *uint64, bits uint64) {
	if atomic.LoadUint64(word)&bits != bits {
		atomic.OrUint64(word, bits)
	}
}
