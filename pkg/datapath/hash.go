// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
)

// hashOdd are the secret multipliers of an instance.
type hashOdd = [limiterHashKeyHASH_KEYS]uint64

// hashAddr is the data path's hash of a masked address; see bpf/hash.h.
func hashAddr(odd *hashOdd, seed uint64, addr netip.Addr) uint64 {
	fold := func(h uint64, word limiterHashKey) uint64 {
		h *= odd[word]
		return h ^ h>>32
	}
	b := addr.AsSlice()
	var h uint64
	if addr.Is4() {
		h = fold(uint64(binary.NativeEndian.Uint32(b))^seed, limiterHashKeyHASH_ODD1)
	} else {
		h = fold(binary.NativeEndian.Uint64(b)^seed, limiterHashKeyHASH_ODD1)
		h = fold(h, limiterHashKeyHASH_ODD2)
		h = fold(h^binary.NativeEndian.Uint64(b[8:]), limiterHashKeyHASH_ODD1)
	}
	return fold(fold(h, limiterHashKeyHASH_ODD2), limiterHashKeyHASH_ODD3)
}

// hashKey is the hash by which a limit counts a packet from source to destination; see bpf/limits.h.
func hashKey(odd *hashOdd, l *limiterLimit, source, destination netip.Addr) uint64 {
	if l.Per == uint8(limiterLimitPerPER_DESTINATION) {
		return hashAddr(odd, l.Seed, l.masked(destination))
	}
	h := hashAddr(odd, l.Seed, l.masked(source))
	if l.Per == uint8(limiterLimitPerPER_SOURCE) {
		return h
	}
	return hashAddr(odd, h, destination)
}

// masked is the part of an address that a limit looks at.
func (l *limiterLimit) masked(a netip.Addr) netip.Addr {
	data := dataAddr(a)
	if data.Family == 4 {
		data.Word[0] &= l.Mask4
		return netAddr(data)
	}
	for w := range data.Word {
		data.Word[w] &= l.Mask6[w]
	}
	return netAddr(data)
}
