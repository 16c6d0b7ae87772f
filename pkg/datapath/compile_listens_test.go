// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/synward/synward/pkg/policy"
)

// drawListen draws from few ports and prefixes, so that they nest and cross.
func drawListen(t *rapid.T) policy.Listen {
	locals := []netip.Prefix{
		{}, {}, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.0.2.0/28"),
		netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("::/0"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2001:db8::1/128"),
	}
	first := rapid.Uint16Range(78, 84).Draw(t, "first")
	l := policy.Listen{
		Proto: rapid.SampledFrom([]policy.Proto{policy.TCP, policy.UDP, policy.QUIC}).Draw(t, "proto"),
		First: first, Last: first + rapid.Uint16Range(0, 3).Draw(t, "more"),
		Local: rapid.SampledFrom(locals).Draw(t, "local"),
	}
	if rapid.IntRange(0, 7).Draw(t, "any") == 0 {
		l.First, l.Last = 0, 65535
	}
	return l
}

// drawServices is a policy of valid services: what cannot be told apart is drawn again.
func drawServices(t *rapid.T) *policy.Policy {
	p := &policy.Policy{}
	for n := range rapid.IntRange(1, 6).Draw(t, "services") {
		s := policy.Service{Name: fmt.Sprintf("s%d", n)}
		for range rapid.IntRange(1, 3).Draw(t, "listens") {
			s.Listen = append(s.Listen, drawListen(t))
		}
		p.Services = append(p.Services, s)
	}
	p.Normalize()
	if p.Validate() != nil {
		t.Skip("listen addresses that cannot be told apart")
	}
	return p
}

// serviceOf finds the service as bpf/service.h does, in what compile made.
func (c *compiled) serviceOf(t *rapid.T, udp bool, local netip.AddrPort) string {
	at := int(local.Port())
	if udp {
		at += int(limiterListenLISTEN_PORTS)
	}
	value := c.ports.Listen[at]
	if mark := uint16(limiterListenLISTEN_CLASS); value&mark != 0 {
		class, best := value&^mark, -1
		for key, v := range c.locals {
			if key.class == class && key.prefix.Contains(local.Addr()) && key.prefix.Bits() > best {
				best, value = key.prefix.Bits(), uint16(v)
			}
		}
		if best < 0 {
			return ""
		}
	}
	if value == 0 {
		return ""
	}
	n := value&uint16(limiterListenLISTEN_SERVICE) - 1
	return fmt.Sprintf("%s quic=%v", c.names[n], value&uint16(limiterListenLISTEN_QUIC) != 0)
}

// Port tables and local prefixes answer as the policy says: the most specific listen address wins.
func TestListensAreThoseOfThePolicy(t *testing.T) {
	testSeed(t)
	addrs := []netip.Addr{
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("10.0.0.1"),
		netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("fe80::1"),
	}
	rapid.Check(t, func(t *rapid.T) {
		p := drawServices(t)
		c, err := compile(p, predecessor{})
		if err != nil {
			t.Fatal(err)
		}
		for port := uint16(76); port < 90; port++ {
			for _, addr := range addrs {
				for _, proto := range []policy.Proto{policy.TCP, policy.UDP} {
					local := netip.AddrPortFrom(addr, port)
					want := ""
					if s, l, ok := p.Match(proto, local); ok {
						want = fmt.Sprintf("%s quic=%v", s.Name, l.Proto == policy.QUIC)
					}
					if got := c.serviceOf(t, proto != policy.TCP, local); got != want {
						t.Fatalf("%s %s: compiled %q, want %q; %v", proto, local, got, want, p.Services)
					}
				}
			}
		}
	})
}

// The trie of sets says of an address all that it is in, though a look-up ends at the longest prefix.
func TestSetsAreThoseOfThePolicy(t *testing.T) {
	testSeed(t)
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.SampledFrom([]byte{0, 1, 64, 128, 255})
		addr := func(label string) netip.Addr {
			return netip.AddrFrom4([4]byte{bytes.Draw(t, label), bytes.Draw(t, label), bytes.Draw(t, label), bytes.Draw(t, label)})
		}
		m := &memberBits{bits: map[string]uint64{}}
		for range rapid.IntRange(1, 5).Draw(t, "lists") {
			var list []netip.Prefix
			for range rapid.IntRange(0, 6).Draw(t, "prefixes") {
				list = append(list, netip.PrefixFrom(addr("prefix"), rapid.IntRange(0, 32).Draw(t, "bits")).Masked())
			}
			m.lists = append(m.lists, list)
		}
		trie := m.trie()
		for range 20 {
			a := addr("address")
			var want, got uint64
			for n, list := range m.lists {
				if slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) }) {
					want |= 1 << n
				}
			}
			best := -1
			for p, bits := range trie {
				if p.Contains(a) && p.Bits() > best {
					best, got = p.Bits(), bits
				}
			}
			if got != want {
				t.Fatalf("%s is in %b, want %b; lists %v", a, got, want, m.lists)
			}
		}
	})
}
