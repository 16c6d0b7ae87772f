// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// How many logins of an operator a policy must leave room for, within how long.
const (
	guardLogins = 3
	guardWithin = time.Minute
)

// GuardPolicy refuses a policy that would lock out somebody who is logged in by SSH: one that it blocks, or
// whose next logins it would refuse. allowed says who is on the operators' own allow list; it may be nil.
// The error is a Lockout.
func GuardPolicy(ops []Operator, p *policy.Policy, allowed func(netip.Addr) bool) error {
	for _, op := range ops {
		if allowed != nil && allowed(op.Peer.Addr()) {
			continue
		}
		if ok, why := p.Admits(op.Peer.Addr(), op.Local, guardLogins, guardWithin); !ok {
			return Lockout{op, why}
		}
	}
	return nil
}

// Allowed reports whether new connections of addr pass by an entry of the allow list that holds now.
func (i *Instance) Allowed(addr netip.Addr) (bool, error) {
	e, err := i.covering(Allow, addr.Unmap().WithZone(""))
	return e != nil, err
}

// OperatorEntry is the entry of a list that covers addr and that an operator or a feed put there, so that it holds
// whatever the policy is; nil if there is none.
func (i *Instance) OperatorEntry(l List, addr netip.Addr) (*Entry, error) {
	return i.coveringThat(l, addr.Unmap().WithZone(""), i.byHand)
}
