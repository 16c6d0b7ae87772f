// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"math/bits"
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

// sourceOf is the prefix that counts as one source with addr, in the ledger of the policy in force.
func (i *Instance) sourceOf(addr netip.Addr) netip.Prefix {
	head := i.control.Policies[slotOfGeneration(i.live().inForce(monotonicNow()))]
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return netip.PrefixFrom(addr, bits.OnesCount32(head.Mask4)).Masked()
	}
	length := 0
	for _, word := range head.Mask6 {
		length += bits.OnesCount32(word)
	}
	return netip.PrefixFrom(addr, length).Masked()
}

// scopedKey is a key of the tries that belong to a policy.
func scopedKey(scope uint32, p netip.Prefix) limiterScopedKey {
	return limiterScopedKey{Prefixlen: scopeBits + lpmFamilyBits + uint32(p.Bits()), Scope: scope, Addr: dataAddr(p.Addr())}
}

func isMissing(err error) bool { return errors.Is(err, ebpf.ErrKeyNotExist) }
