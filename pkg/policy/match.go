// SPDX-License-Identifier: Apache-2.0

package policy

import "net/netip"

// ServiceFor returns the service that a packet to local belongs to: the most specific one, by fewer
// ports and then by the longer local prefix. UDP and QUIC are one protocol here.
func (p *Policy) ServiceFor(proto Proto, local netip.AddrPort) (*Service, bool) {
	service, _, ok := p.Match(proto, local)
	return service, ok
}

// Match is ServiceFor with the listen address that decided, which says whether a datagram is judged as
// QUIC.
func (p *Policy) Match(proto Proto, local netip.AddrPort) (*Service, Listen, bool) {
	var best *Service
	var bestListen Listen
	for i := range p.Services {
		for _, l := range p.Services[i].Listen {
			if l.covers(proto, local) && (best == nil || l.moreSpecific(bestListen)) {
				best, bestListen = &p.Services[i], l
			}
		}
	}
	return best, bestListen, best != nil
}

// Applies says whether a limit is for a source at all: From, unless empty, has it, and Except has not.
// The policy must be normal.
func (p *Policy) Applies(l *Limit, source netip.Addr) bool {
	if !l.From.IsEmpty() {
		if _, ok := p.Covers(l.From, source); !ok {
			return false
		}
	}
	_, excepted := p.Covers(l.Except, source)
	return !excepted
}
