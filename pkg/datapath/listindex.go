// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"sync/atomic"
)

// The list index has one bit an IPv4 /24 and one bit a hash of an IPv6 /32; see bpf/lists.h.
const (
	indexBits4     = 24
	indexBits6     = 32
	indexHashShift = 10
	indexHashMul   = 0x9e3779b1
)

// indexAllShorter6: a shorter IPv6 prefix sets every bit, for it covers more hashes than there are.
const indexAllShorter6 = 12

// listIndex is the bitmap in front of the lists, and the word of families before that. A bit is set
// before its entry is inserted.
type listIndex struct{ *memory }

// set marks every bit that an address of the prefix may look at, and last the one that says that the
// family has any.
func (x listIndex) set(p netip.Prefix) {
	x.setBits(p)
	family := uint64(1)
	if p.Addr().Is6() {
		family = 2
	}
	setBits(&x.control.Families, family)
}

func (x listIndex) setBits(p netip.Prefix) {
	v4Bits := uint64(limiterAbiLIST_INDEX_WORDS4) * 64
	v6Bits := uint64(limiterAbiLIST_INDEX_WORDS6) * 64
	if p.Addr().Is4() {
		first, n := span(p, indexBits4)
		x.setRange(first, n)
		return
	}
	if p.Bits() < indexAllShorter6 {
		x.setRange(v4Bits, v6Bits)
		return
	}
	first, n := span(p, indexBits6)
	for top := first; top < first+n; top++ {
		hash := uint32(top) * indexHashMul >> indexHashShift
		x.setRange(v4Bits+uint64(hash), 1)
	}
}

// span is which values the upper bits of the prefix's addresses take: the first, and how many.
func span(p netip.Prefix, upper int) (first, n uint64) {
	a := p.Addr().AsSlice()
	top := uint64(a[0])<<24 | uint64(a[1])<<16 | uint64(a[2])<<8 | uint64(a[3])
	first = top >> (32 - upper)
	if p.Bits() >= upper {
		return first, 1
	}
	return first, 1 << (upper - p.Bits())
}

func (x listIndex) setRange(first, n uint64) {
	for end := first + n; first < end; {
		word, bit := first/64, first%64
		run := min(64-bit, end-first)
		mask := (^uint64(0) >> (64 - run)) << bit
		setBits(&x.tables.ListIndex[word], mask)
		first += run
	}
}

// setBits writes only if that changes something, for programs read the word.
func setBits(word *uint64, bits uint64) {
	if atomic.LoadUint64(word)&bits != bits {
		atomic.OrUint64(word, bits)
	}
}
