// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const anyPort = "any"

// ParseListen reads [LOCAL:]PORT/PROTO: PORT is a port, a range as 8000-8100, or any; PROTO is tcp, udp
// or quic; LOCAL is an address or a network of this host, in brackets if it is IPv6. Errors wrap
// ErrInvalid.
func ParseListen(s string) (Listen, error) {
	what := fmt.Sprintf("listen address %q", s)
	address, proto, found := cutLast(s, "/")
	l := Listen{Proto: Proto(proto)}
	if !found || !(l.Proto == TCP || l.Proto == UDP || l.Proto == QUIC) {
		return Listen{}, invalid(what, "write PORT/tcp, PORT/udp or PORT/quic, as in 443/tcp")
	}
	local, ports, found := cutLast(address, ":")
	if !found {
		local, ports = "", address
	}
	var ok bool
	if l.First, l.Last, ok = parsePorts(ports); !ok {
		return Listen{}, invalid(what, "write a port from 1 to 65535, a range as in 8000-8100, or any")
	}
	if !found {
		return l, nil
	}
	bare, err := unbracket(local)
	if err != nil {
		return Listen{}, invalid(what, "%v", err)
	}
	if l.Local, err = ParsePrefix(bare); err != nil {
		return Listen{}, invalid(what, "%s", strings.TrimPrefix(err.Error(), ErrInvalid.Error()+" "))
	}
	return l, nil
}

// cutLast cuts at the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func parsePorts(s string) (first, last uint16, ok bool) {
	if s == anyPort {
		return 0, 65535, true
	}
	from, to, ranged := strings.Cut(s, "-")
	if !ranged {
		to = from
	}
	a, errA := parsePort(from)
	b, errB := parsePort(to)
	return a, b, errA == nil && errB == nil && a > 0 && a <= b
}

func parsePort(s string) (uint16, error) {
	if strings.HasPrefix(s, "+") {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

// unbracket takes the brackets off an IPv6 address, which must have them.
func unbracket(s string) (string, error) {
	inner, opened := strings.CutPrefix(s, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	ipv6 := strings.Contains(s, ":")
	switch {
	case opened && closed && ipv6, !opened && !closed && !ipv6:
		return inner, nil
	case ipv6:
		return "", fmt.Errorf("put an IPv6 address in brackets, as in [2001:db8::10]:443/tcp")
	}
	return "", fmt.Errorf("brackets are for IPv6; write an IPv4 address without, as in 192.0.2.10:443/tcp")
}

// String is the form that ParseListen reads back.
func (l Listen) String() string {
	ports := strconv.Itoa(int(l.First))
	switch {
	case l.anyPort():
		ports = anyPort
	case l.First != l.Last:
		ports += "-" + strconv.Itoa(int(l.Last))
	}
	local := ""
	if l.Local.IsValid() {
		local = FormatPrefix(l.Local) + ":"
		if l.Local.Addr().Is6() {
			local = "[" + FormatPrefix(l.Local) + "]:"
		}
	}
	return local + ports + "/" + string(l.Proto)
}

func (l Listen) anyPort() bool { return l.First == 0 && l.Last == 65535 }

// udp says whether the datagrams of UDP and QUIC reach the address: QUIC is UDP.
func (l Listen) udp() bool { return l.Proto != TCP }

// width is how many ports less one.
func (l Listen) width() int { return int(l.Last) - int(l.First) }

// localBits is how specific the local address is: -1 for any.
func (l Listen) localBits() int {
	if !l.Local.IsValid() {
		return -1
	}
	return l.Local.Bits()
}

// covers says whether a packet to local is for the address. QUIC and UDP are one protocol here.
func (l Listen) covers(proto Proto, local netip.AddrPort) bool {
	return l.udp() == (proto != TCP) && l.First <= local.Port() && local.Port() <= l.Last &&
		(!l.Local.IsValid() || l.Local.Contains(local.Addr().Unmap()))
}

// moreSpecific says whether a packet that both addresses cover is l's: fewer ports come first, then the
// longer local prefix.
func (l Listen) moreSpecific(than Listen) bool {
	if l.width() != than.width() {
		return l.width() < than.width()
	}
	return l.localBits() > than.localBits()
}

// clashes says whether some packet is for both addresses and neither is more specific.
func (l Listen) clashes(with Listen) bool {
	return l.udp() == with.udp() && l.width() == with.width() && l.Local == with.Local &&
		l.First <= with.Last && with.First <= l.Last
}

// compareListen is the order of a normal policy: TCP first, then by port and local address.
func compareListen(a, b Listen) int {
	order := func(p Proto) int { return strings.Index("tcp udp quic", string(p)) }
	return cmp.Or(cmp.Compare(order(a.Proto), order(b.Proto)), cmp.Compare(a.First, b.First),
		cmp.Compare(a.Last, b.Last), comparePrefixes(a.Local, b.Local))
}
