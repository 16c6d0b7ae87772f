// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/cilium/ebpf"
)

// dataAddr is an address as the data path keeps it.
func dataAddr(a netip.Addr) limiterAddr {
	a = a.Unmap()
	out := limiterAddr{Family: 6}
	if a.Is4() {
		out.Family = 4
	}
	for w := range len(a.AsSlice()) / 4 {
		out.Word[w] = networkWord(a, w)
	}
	return out
}

// netAddr is the reverse. A family that is neither is the zero Addr: pinned maps are input.
func netAddr(a limiterAddr) netip.Addr {
	var b [16]byte
	for w, word := range a.Word {
		binary.NativeEndian.PutUint32(b[4*w:], word)
	}
	switch a.Family {
	case 4:
		return netip.AddrFrom4([4]byte(b[:4]))
	case 6:
		return netip.AddrFrom16(b)
	default:
		return netip.Addr{}
	}
}

// sourceOf is the prefix that counts as one source with addr.
func sourceOf(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return netip.PrefixFrom(addr, sourceBits4).Masked()
	}
	return netip.PrefixFrom(addr, sourceBits6).Masked()
}

func isMissing(err error) bool { return errors.Is(err, ebpf.ErrKeyNotExist) }
