// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/synward/synward/pkg/policy"
)

// listenAt is one listen address of a policy and what it leads to.
type listenAt struct {
	policy.Listen
	value uint16 // as in port_table.listen
}

// maxLocals is how many entries the trie of local addresses holds for one policy: two are in force.
const maxLocals = 30_000

// compileListens works out what is most specific, so that the data path only has to look it up: for each
// stretch of ports that the same addresses cover, who wins; where that depends on the local address, a
// class of such stretches and, in a trie, who wins there for each prefix.
func (c *compiled) compileListens(p *policy.Policy) error {
	c.ports = &limiterPortTable{}
	classes := map[string]uint16{}
	for protocol := range uint32(limiterListenLISTEN_PROTOCOLS) {
		all := listensOf(p, protocol)
		for _, stretch := range stretches(all) {
			var over []listenAt
			for _, l := range all {
				if l.First <= stretch.first && stretch.last <= l.Last {
					over = append(over, l)
				}
			}
			value, err := c.winner(over, classes)
			if err != nil {
				return err
			}
			base := int(protocol) * int(limiterListenLISTEN_PORTS)
			for port := int(stretch.first); port <= int(stretch.last); port++ {
				c.ports.Listen[base+port] = value
			}
		}
	}
	return nil
}

// listensOf are the listen addresses of a protocol, the most specific first.
func listensOf(p *policy.Policy, protocol uint32) []listenAt {
	var all []listenAt
	for n, s := range p.Services {
		for _, l := range s.Listen {
			if (l.Proto != policy.TCP) != (protocol == 1) {
				continue
			}
			value := uint16(n + 1)
			if l.Proto == policy.QUIC {
				value |= uint16(limiterListenLISTEN_QUIC)
			}
			all = append(all, listenAt{l, value})
		}
	}
	slices.SortStableFunc(all, func(a, b listenAt) int {
		return cmp.Or(
			cmp.Compare(int(a.Last)-int(a.First), int(b.Last)-int(b.First)),
			cmp.Compare(localBits(b.Local), localBits(a.Local)),
		)
	})
	return all
}

// localBits orders any below a prefix of no bits, which is any of one family.
func localBits(p netip.Prefix) int {
	if !p.IsValid() {
		return -1
	}
	return p.Bits()
}

type stretch struct{ first, last uint16 }

// stretches cuts the ports where a listen address begins or ends; those that nobody covers are left out.
func stretches(all []listenAt) []stretch {
	var cuts []int
	for _, l := range all {
		cuts = append(cuts, int(l.First), int(l.Last)+1)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	var out []stretch
	for i := 1; i < len(cuts); i++ {
		s := stretch{uint16(cuts[i-1]), uint16(cuts[i] - 1)}
		if slices.ContainsFunc(all, func(l listenAt) bool { return l.First <= s.first && s.last <= l.Last }) {
			out = append(out, s)
		}
	}
	return out
}

// winner is the value of a stretch that these cover, the most specific first.
func (c *compiled) winner(over []listenAt, classes map[string]uint16) (uint16, error) {
	if !over[0].Local.IsValid() {
		return over[0].value, nil
	}
	key := ""
	for _, l := range over {
		key += fmt.Sprint(l.Local, l.value, ";")
		if !l.Local.IsValid() {
			break // wider ones are never asked
		}
	}
	class, ok := classes[key]
	if !ok {
		class = uint16(len(classes))
		classes[key] = class
		if err := c.addLocals(class, over); err != nil {
			return 0, err
		}
	}
	return uint16(limiterListenLISTEN_CLASS) | class, nil
}

// addLocals: for an address, the longest prefix of the class decides who is asked, and the first of them
// all that covers it wins.
func (c *compiled) addLocals(class uint16, over []listenAt) error {
	for _, l := range over {
		places := []netip.Prefix{l.Local}
		if !l.Local.IsValid() {
			places = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
		}
		for _, p := range places {
			first := slices.IndexFunc(over, func(l listenAt) bool { return !l.Local.IsValid() || contains(l.Local, p) })
			c.locals[localKey{class, p}] = uint64(over[first].value)
		}
	}
	if len(c.locals) > maxLocals {
		return fail(ErrInvalid, "the listen addresses of this policy cross each other in too many ways (over %d); use fewer ranges of ports, or fewer local prefixes", maxLocals)
	}
	return nil
}
