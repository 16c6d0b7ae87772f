// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/bits"
	"net/netip"
	"time"
)

// verifiedFor is how long a handshake exempts a source from a limit with exempt: verified.
const verifiedFor = 10 * time.Minute

// What a login by SSH sends at the least, handshake and keys included, before there is a prompt.
const (
	loginPackets = 40
	loginBytes   = 10_000
)

// Admits says whether n new TCP connections of one client from src to local would all be admitted, and if
// not, why, in one phrase that names the list, or the service and the limit. The first comes at once, the last
// after within, the others evenly between; meters are empty at the start, connections stay open, and of
// packets and bytes what a login by SSH sends counts. The client answers challenges. The policy must be normal.
func (p *Policy) Admits(src netip.Addr, local netip.AddrPort, n int, within time.Duration) (ok bool, why string) {
	if _, allowed := p.Covers(p.Allow, src); allowed || p.Mode == Observe || n <= 0 {
		return true, ""
	}
	if entry, blocked := p.Covers(p.Block, src); blocked {
		return false, "block has " + entry
	}
	service, ok := p.ServiceFor(TCP, local)
	if !ok {
		return true, ""
	}
	if _, allowed := p.Covers(service.Allow, src); allowed {
		return true, ""
	}
	attempt := attempt{n: n, within: within}
	if i, refused := p.firstRefusal(service.Limits, src, attempt); refused {
		return false, fmt.Sprintf("service %s, limit %d: %s", service.Name, i+1, service.Limits[i])
	}
	if i, refused := p.firstRefusal(p.Global.Limits, src, attempt); refused {
		return false, fmt.Sprintf("global limit %d: %s", i+1, p.Global.Limits[i])
	}
	return true, ""
}

// attempt is so many connections in a time.
type attempt struct {
	n      int
	within time.Duration
}

// at is when the i-th connection comes.
func (a attempt) at(i int) time.Duration {
	if a.n < 2 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(max(a.within, 0)), uint64(i))
	at, _ := bits.Div64(hi, lo, uint64(a.n-1))
	return time.Duration(at)
}

// firstRefusal returns the first limit that would refuse a connection. All connections are admitted by
// all limits if each limit by itself admits them all, for then none is charged less.
func (p *Policy) firstRefusal(limits []Limit, src netip.Addr, a attempt) (index int, refused bool) {
	for i := range limits {
		if p.Applies(&limits[i], src) && !limits[i].admits(a) {
			return i, true
		}
	}
	return 0, false
}

// admits says whether one limit admits every connection of the attempt. A challenge that does not name
// the source admits whoever answers; one that names it has a second meter of the same rate and burst, which
// every handshake charges.
func (l Limit) admits(a attempt) bool {
	switch {
	case l.Over == OverObserve, l.Over == OverChallenge && !l.namesSource(), l.Kind == KindBytesOut:
		return true
	case l.Kind == KindConcurrent:
		return uint64(a.n) <= l.Concurrent
	}
	m := l.NewMeter()
	for i := range a.n {
		exempt := l.Exempt == ExemptVerified && i > 0 && a.at(i)-a.at(i-1) <= verifiedFor
		if !exempt && !l.admitsOne(m, a.at(i)) {
			return false
		}
	}
	return true
}

// admitsOne says whether a meter admits one connection: of packets and bytes all that a login sends, evenly
// within a second.
func (l Limit) admitsOne(m *Meter, at time.Duration) bool {
	if l.Kind == KindNew {
		return m.Admit(at, 1)
	}
	for i := range time.Duration(loginPackets) {
		cost := uint64(1)
		if l.Kind == KindBytesIn {
			cost = loginBytes / loginPackets
		}
		if !m.Admit(at+i*time.Second/loginPackets, cost) {
			return false
		}
	}
	return true
}
