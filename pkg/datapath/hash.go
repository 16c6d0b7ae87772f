// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
)

// hashAddr is the data path's hash of a masked source; see bpf/hash.h.
func hashAddr(key [limiterHashKeyHASH_KEYS]uint64, addr netip.Addr) uint64 {
	fold := func(h uint64, word limiterHashKey) uint64 {
		h *= key[word]
		return h ^ h>>32
	}
	b := addr.AsSlice()
	var h uint64
	if addr.Is4() {
		h = fold(uint64(binary.NativeEndian.Uint32(b))^key[limiterHashKeyHASH_IPV4], limiterHashKeyHASH_ODD1)
	} else {
		h = fold(binary.NativeEndian.Uint64(b)^key[limiterHashKeyHASH_IPV6], limiterHashKeyHASH_ODD1)
		h = fold(h^binary.NativeEndian.Uint64(b[8:]), limiterHashKeyHASH_ODD1)
	}
	return fold(fold(h, limiterHashKeyHASH_ODD2), limiterHashKeyHASH_ODD3)
}
