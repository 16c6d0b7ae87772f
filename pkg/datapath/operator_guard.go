// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
)

// Lockout says that a change would keep an operator out. It is ErrRefused.
type Lockout struct {
	Operator Operator
	// Why is what of the change does it: "blocked by 192.0.2.0/24".
	Why string
}

// Error is one line that ends with the two ways to go on.
func (l Lockout) Error() string {
	addr := l.Operator.Peer.Addr()
	return fmt.Sprintf("refused: this would lock out %s (%s): %s; go on with --force, or first: synward allow add %s",
		addr, l.Operator.session(), l.Why, addr)
}

// Unwrap is ErrRefused.
func (Lockout) Unwrap() error { return ErrRefused }

// GuardBlock is a Lockout for the first operator whom a block of these prefixes would cover, nil if there
// is none. Whoever is allowed is not covered; a nil allowed is nobody.
func GuardBlock(ops []Operator, prefixes []netip.Prefix, allowed func(netip.Addr) bool) error {
	for _, op := range ops {
		addr := op.Peer.Addr()
		for _, p := range prefixes {
			if !p.Contains(addr) {
				continue
			}
			if allowed != nil && allowed(addr) {
				break
			}
			return Lockout{Operator: op, Why: "blocked by " + p.String()}
		}
	}
	return nil
}
