// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
)

// protectLater does what protect does where a policy in force bans: addresses and logins change. What cannot be told
// now stays as it was, for a command that lifts a ban must not fail for it; apply says so.
func (i *Instance) protectLater() {
	if i.headInForce().Features&uint32(limiterFeatureFEATURE_BAN) != 0 {
		_ = i.protect()
	}
}

// protect writes whom no ban may cover: the host's own addresses, its gateways and resolvers, and who is logged in
// by SSH. What is there already stays all the while.
func (i *Instance) protect() error {
	own, err := OwnAddresses()
	if err != nil {
		return fmt.Errorf("find whom no ban may cover: %w", err)
	}
	operators, err := Operators()
	if err != nil {
		return fmt.Errorf("find whom no ban may cover: %w", err)
	}
	for _, op := range operators {
		own = append(own, netip.PrefixFrom(op.Peer.Addr(), op.Peer.Addr().BitLen()))
	}
	keep := map[limiterPrefixKey]bool{}
	for _, p := range own {
		if p.Bits() > strikerOf(p.Addr()).Bits() {
			p = strikerOf(p.Addr())
		}
		key := limiterPrefixKey{Prefixlen: uint32(p.Bits() + lpmFamilyBits), Addr: dataAddr(p.Masked().Addr())}
		if err := i.maps.Protected.Put(key, uint64(1)); err != nil {
			return fmt.Errorf("protect %s from bans: %w", p, err)
		}
		keep[key] = true
	}
	return i.unprotectBut(keep)
}

func (i *Instance) unprotectBut(keep map[limiterPrefixKey]bool) error {
	var gone []limiterPrefixKey
	var key limiterPrefixKey
	var value uint64
	iter := i.maps.Protected.Iterate()
	for iter.Next(&key, &value) {
		if !keep[key] {
			gone = append(gone, key)
		}
	}
	err := iter.Err()
	for _, key := range gone {
		if more := i.maps.Protected.Delete(key); more != nil && !isMissing(more) {
			err = errors.Join(err, more)
		}
	}
	if err != nil {
		return fmt.Errorf("clear protected: %w", err)
	}
	return nil
}
