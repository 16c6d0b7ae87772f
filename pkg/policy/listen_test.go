// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"testing"
)

func TestParseListen(t *testing.T) {
	for in, want := range map[string]struct {
		proto       Proto
		first, last uint16
		local, out  string
	}{
		"80/tcp":                        {TCP, 80, 80, "", "80/tcp"},
		"80-80/udp":                     {UDP, 80, 80, "", "80/udp"},
		"8000-8100/tcp":                 {TCP, 8000, 8100, "", "8000-8100/tcp"},
		"any/quic":                      {QUIC, 0, 65535, "", "any/quic"},
		"1-65535/tcp":                   {TCP, 1, 65535, "", "1-65535/tcp"},
		"203.0.113.10:8443/tcp":         {TCP, 8443, 8443, "203.0.113.10/32", "203.0.113.10:8443/tcp"},
		"192.0.2.0/24:443/tcp":          {TCP, 443, 443, "192.0.2.0/24", "192.0.2.0/24:443/tcp"},
		"192.0.2.0/24:any/tcp":          {TCP, 0, 65535, "192.0.2.0/24", "192.0.2.0/24:any/tcp"},
		"0.0.0.0/0:1-9/udp":             {UDP, 1, 9, "0.0.0.0/0", "0.0.0.0/0:1-9/udp"},
		"[2001:db8::10]:8443/tcp":       {TCP, 8443, 8443, "2001:db8::10/128", "[2001:db8::10]:8443/tcp"},
		"[2001:DB8::/64]:443/quic":      {QUIC, 443, 443, "2001:db8::/64", "[2001:db8::/64]:443/quic"},
		"[::ffff:203.0.113.10]:443/tcp": {TCP, 443, 443, "203.0.113.10/32", "203.0.113.10:443/tcp"},
	} {
		l, err := ParseListen(in)
		if err != nil || l.Proto != want.proto || l.First != want.first || l.Last != want.last || l.String() != want.out {
			t.Errorf("ParseListen(%q) = %v, %v, want %v", in, l, err, want)
		}
		if local := l.Local; local.IsValid() != (want.local != "") || local.IsValid() && local.String() != want.local {
			t.Errorf("ParseListen(%q) has the address %v, want %s", in, local, want.local)
		}
	}
	for _, in := range []string{"", "/", "/tcp", "80", "80/", "80/TCP", "-/tcp", "+80/tcp", "80-/tcp", "-80/tcp", "1-2-3/tcp",
		"*/tcp", ":80/tcp", "[]:80/tcp", "[2001:db8::1:80/tcp", "2001:db8::1]:80/tcp", "80 /tcp", "192.0.2.1/tcp"} {
		_, err := ParseListen(in)
		if err == nil {
			t.Errorf("ParseListen(%q) is accepted", in)
			continue
		}
		checkInvalid(t, "ParseListen", in, err, err.Error())
	}
}

// The most specific service of design section 2: exact port, then the narrower range, then any; then the
// longer local prefix.
func TestServiceFor(t *testing.T) {
	p := mustParse(t, `version: 1
services:
  - {name: any, listen: [any/tcp]}
  - {name: any-host, listen: ["192.0.2.1:any/tcp"]}
  - {name: wide, listen: [8000-8999/tcp]}
  - {name: narrow, listen: [8000-8009/tcp]}
  - {name: narrow-host, listen: ["192.0.2.1:8000-8009/tcp"]}
  - {name: exact, listen: [8000/tcp]}
  - {name: exact-net, listen: ["192.0.2.0/24:8000/tcp"]}
  - {name: exact-zero, listen: ["0.0.0.0/0:8000/tcp", "[::/0]:8000/tcp"]}
  - {name: quic, listen: [443/quic]}
  - {name: dns, listen: [53/udp, 53/tcp]}
`)
	for _, c := range []struct {
		proto       Proto
		local, want string
	}{
		{TCP, "198.51.100.1:1", "any"}, {TCP, "192.0.2.1:1", "any-host"}, {TCP, "192.0.2.1:8500", "wide"},
		{TCP, "192.0.2.2:8001", "narrow"}, {TCP, "192.0.2.1:8001", "narrow-host"}, {TCP, "192.0.2.1:8000", "exact-net"},
		{TCP, "198.51.100.1:8000", "exact-zero"}, {TCP, "[2001:db8::1]:8000", "exact-zero"},
		{TCP, "[::ffff:192.0.2.1]:8000", "exact-net"}, {TCP, "[2001:db8::1]:443", "any"},
		{UDP, "192.0.2.1:443", "quic"}, {QUIC, "192.0.2.1:443", "quic"}, {QUIC, "192.0.2.1:53", "dns"}, {TCP, "192.0.2.1:53", "dns"},
		{UDP, "192.0.2.1:54", ""},
	} {
		s, ok := p.ServiceFor(c.proto, netip.MustParseAddrPort(c.local))
		if ok != (c.want != "") || ok && s.Name != c.want {
			t.Errorf("%s %s: got %v, %v, want %q", c.proto, c.local, s, ok, c.want)
		}
	}
	if _, l, _ := p.Match(UDP, netip.MustParseAddrPort("192.0.2.1:443")); l.Proto != QUIC {
		t.Errorf("port 443 is judged as %s", l.Proto)
	}
}
