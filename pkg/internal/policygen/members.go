// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"net/netip"

	"pgregory.net/rapid"

	"github.com/synward/synward/pkg/policy"
)

// Prefix draws a prefix of either family. Few bits vary, so that prefixes meet.
func Prefix(t *rapid.T) netip.Prefix {
	if rapid.Bool().Draw(t, "ipv4") {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, rapid.Byte().Draw(t, "host")})
		return netip.PrefixFrom(addr, rapid.IntRange(22, 32).Draw(t, "bits")).Masked()
	}
	addr := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 6: rapid.Byte().Draw(t, "net"), 15: rapid.Byte().Draw(t, "host")})
	return netip.PrefixFrom(addr, rapid.SampledFrom([]int{32, 48, 56, 64, 120, 128}).Draw(t, "bits")).Masked()
}

// Prefixes draws a few prefixes, in any order, some perhaps inside others.
func Prefixes(t *rapid.T) []netip.Prefix {
	return rapid.SliceOfN(rapid.Custom(Prefix), 0, 6).Draw(t, "prefixes")
}

// Members draws prefixes and some of the sets.
func Members(t *rapid.T, sets []policy.Set) policy.Members {
	m := policy.Members{Prefixes: Prefixes(t)}
	for _, s := range sets {
		if rapid.IntRange(0, 3).Draw(t, "has "+s.Name) == 0 {
			m.Sets = append(m.Sets, s.Name)
		}
	}
	return m
}

// name draws the name of a set or service.
func name(t *rapid.T) string {
	return rapid.OneOf(rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9_.-]{0,4}`),
		rapid.SampledFrom([]string{"true", "null", "1e5", "0x1", "1.5", "007", "12", "y", "a-b", "v1.2", "1_000", "2001-01-01"})).
		Filter(func(s string) bool { _, err := netip.ParseAddr(s); return err != nil }).Draw(t, "name")
}

func listen(t *rapid.T) policy.Listen {
	l := policy.Listen{Proto: rapid.SampledFrom([]policy.Proto{policy.TCP, policy.TCP, policy.UDP, policy.QUIC}).Draw(t, "proto")}
	switch rapid.IntRange(0, 3).Draw(t, "ports") {
	case 0:
		l.Last = 65535
	case 1:
		l.First = rapid.Uint16Range(1, 20).Draw(t, "first")
		l.Last = rapid.Uint16Range(l.First, l.First+20).Draw(t, "last")
	default:
		l.First = rapid.Uint16Range(1, 65535).Draw(t, "port")
		l.Last = l.First
	}
	if rapid.Bool().Draw(t, "has local") {
		l.Local = Prefix(t)
	}
	return l
}
