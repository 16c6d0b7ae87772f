// SPDX-License-Identifier: Apache-2.0

package policy

// placedListen is a listen address with its place in the policy.
type placedListen struct {
	Listen
	service, index int
}

// checkListens finds addresses that are no local prefix, too many of them, and packets of which nothing
// says whose they are.
func (p *Policy) checkListens() *flaw {
	var seen []placedListen
	for i, s := range p.Services {
		for j, l := range s.Listen {
			here := placedListen{l, i, j}
			f := p.checkListen(here, seen)
			if seen = append(seen, here); f == nil && len(seen) > MaxListens {
				f = flawf("", "the services listen on more than %d addresses; use ranges of ports or any", MaxListens)
			}
			if f != nil {
				return f.under("services", i, "listen", j)
			}
		}
	}
	return nil
}

func (p *Policy) checkListen(l placedListen, seen []placedListen) *flaw {
	if again, err := ParseListen(l.String()); err != nil || again != l.Listen {
		return flawf("", "%s is no listen address; write it as in 443/tcp", l)
	}
	for _, before := range seen {
		if !l.clashes(before.Listen) {
			continue
		}
		same := l.First == before.First && l.Last == before.Last
		other := p.Services[before.service].Name
		switch {
		case before.service != l.service && same:
			return flawf("", "service %s listens on %s already; take it out of one of the two%s", other, before, quicIsUDP(l, before))
		case before.service != l.service:
			return flawf("", "%s and %s of service %s share ports and neither is more specific; make one range smaller",
				l, before, other)
		case l.Listen == before.Listen:
			return flawf("", "%s is there twice; leave one", l)
		case l.Proto != before.Proto:
			return flawf("", "%s and %s share ports and neither is more specific; leave one%s", before, l, quicIsUDP(l, before))
		}
	}
	return nil
}

func quicIsUDP(a, b placedListen) string {
	if a.Proto == b.Proto {
		return ""
	}
	return " (quic is udp)"
}
