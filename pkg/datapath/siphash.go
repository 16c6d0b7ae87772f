// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// siphash is SipHash-c-d (Aumasson and Bernstein, 2012). The data path uses c=1, d=3 (bpf/siphash.h).
func siphash(c, d int, key [2]uint64, message []byte) uint64 {
	v := [4]uint64{
		key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
		key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573,
	}
	last := uint64(len(message)) << 56
	for ; len(message) >= 8; message = message[8:] {
		v = sipBlock(c, v, binary.LittleEndian.Uint64(message))
	}
	for i, b := range message {
		last |= uint64(b) << (8 * i)
	}
	v = sipBlock(c, v, last)
	v[2] ^= 0xff
	for range d {
		v = sipRound(v)
	}
	return v[0] ^ v[1] ^ v[2] ^ v[3]
}

func sipBlock(c int, v [4]uint64, block uint64) [4]uint64 {
	v[3] ^= block
	for range c {
		v = sipRound(v)
	}
	v[0] ^= block
	return v
}

func sipRound(v [4]uint64) [4]uint64 {
	v[0] += v[1]
	v[1] = bits.RotateLeft64(v[1], 13) ^ v[0]
	v[0] = bits.RotateLeft64(v[0], 32)
	v[2] += v[3]
	v[3] = bits.RotateLeft64(v[3], 16) ^ v[2]
	v[0] += v[3]
	v[3] = bits.RotateLeft64(v[3], 21) ^ v[0]
	v[2] += v[1]
	v[1] = bits.RotateLeft64(v[1], 17) ^ v[2]
	v[2] = bits.RotateLeft64(v[2], 32)
	return v
}

// hashAddr is the data path's hash of a masked source: IPv4 is 4 bytes, IPv6 16.
func hashAddr(key [2]uint64, addr netip.Addr) uint64 {
	return siphash(1, 3, key, addr.AsSlice())
}
