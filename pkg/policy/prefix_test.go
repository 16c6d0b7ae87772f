// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/synward/synward/pkg/feed"
)

func TestParsePrefix(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":              "192.0.2.1/32",
		"192.0.2.0/24":           "192.0.2.0/24",
		"0.0.0.0/0":              "0.0.0.0/0",
		"2001:db8::1":            "2001:db8::1/128",
		"2001:DB8::/32":          "2001:db8::/32",
		"::/0":                   "::/0",
		"::ffff:192.0.2.1":       "192.0.2.1/32",
		"::ffff:192.0.2.0/120":   "192.0.2.0/24",
		"::ffff:0:0/96":          "0.0.0.0/0",
		"0:0:0:0:0:ffff:0:0/128": "0.0.0.0/32",
	} {
		got, err := ParsePrefix(in)
		if err != nil || got.String() != want {
			t.Errorf("ParsePrefix(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
}

func TestParsePrefixErrors(t *testing.T) {
	for in, want := range map[string]string{
		"": `invalid prefix "": write an address or a prefix, as in 192.0.2.1 or 2001:db8::/32 (names are not looked up)`,
		"example.com": `invalid prefix "example.com": write an address or a prefix, as in 192.0.2.1 or 2001:db8::/32 ` +
			`(names are not looked up)`,
		"10.0.0/8":          `invalid prefix "10.0.0/8": write an address or a prefix, as in 192.0.2.0/24 or 2001:db8::/32`,
		"10.0.0.0/33":       `invalid prefix "10.0.0.0/33": write an address or a prefix, as in 192.0.2.0/24 or 2001:db8::/32`,
		"192.0.2.7/24":      `invalid prefix "192.0.2.7/24": it has host bits set; use 192.0.2.0/24 for the network or 192.0.2.7 for the host`,
		"2001:db8::1/64":    `invalid prefix "2001:db8::1/64": it has host bits set; use 2001:db8::/64 for the network or 2001:db8::1 for the host`,
		"::ffff:1.2.3.4/96": `invalid prefix "::ffff:1.2.3.4/96": it has host bits set; use 0.0.0.0/0 for the network or 1.2.3.4 for the host`,
		"::ffff:0:0/80":     `invalid prefix "::ffff:0:0/80": it has host bits set; use ::/80 for the network or 0.0.0.0 for the host`,
		"fe80::1%eth0":      `invalid prefix "fe80::1%eth0": an address is judged on every interface; leave out %eth0`,
		"fe80::%eth0/64":    `invalid prefix "fe80::%eth0/64": an address is judged on every interface; leave out %eth0`,
	} {
		_, err := ParsePrefix(in)
		checkInvalid(t, "ParsePrefix", in, err, want)
	}
}

func TestParseAddr(t *testing.T) {
	for in, want := range map[string]string{"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "::1": "::1"} {
		if got, err := ParseAddr(in); err != nil || got.String() != want {
			t.Errorf("ParseAddr(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"192.0.2.0/24": `invalid address "192.0.2.0/24": write one IPv4 or IPv6 address, as in 192.0.2.1 (names are not looked up)`,
		"fe80::1%eth0": `invalid address "fe80::1%eth0": an address is judged on every interface; leave out %eth0`,
	} {
		_, err := ParseAddr(in)
		checkInvalid(t, "ParseAddr", in, err, want)
	}
}

func TestPrefixRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
		addr, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "addr"))
		want := netip.PrefixFrom(addr, rapid.IntRange(0, addr.BitLen()).Draw(t, "bits")).Masked()
		want = feed.Unmap(want)
		for _, s := range []string{want.String(), FormatPrefix(want)} {
			if got, err := ParsePrefix(s); err != nil || got != want {
				t.Fatalf("ParsePrefix(%q) = %v, %v, want %v", s, got, err, want)
			}
		}
	})
}

func FuzzParsePrefix(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "10.0.0.0/8", "2001:db8::/32", "::ffff:1.2.3.4", "fe80::1%x/64", "::ffff:0:0/95"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		prefix, err := ParsePrefix(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("ParsePrefix(%q): %v does not wrap ErrInvalid", s, err)
			}
			return
		}
		if prefix != prefix.Masked() || prefix.Addr().Zone() != "" || (prefix.Addr().Is4In6() && prefix.Bits() >= 96) {
			t.Errorf("ParsePrefix(%q) = %v, which is not canonical", s, prefix)
		}
		if again, err := ParsePrefix(FormatPrefix(prefix)); err != nil || again != prefix {
			t.Errorf("ParsePrefix(%q) = %v reads back as %v, %v", s, prefix, again, err)
		}
	})
}
