// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// banFeatures are those of policies that ban somebody.
const banFeatures = uint32(limiterFeatureFEATURE_BAN | limiterFeatureFEATURE_ACKED)

// protectLater does what protect does where a policy in force bans: addresses and logins change. What cannot be told
// now stays as it was, for a command that lifts a ban must not fail for it; apply says so.
func (i *Instance) protectLater() {
	if i.headInForce().Features&banFeatures != 0 {
		_ = i.protect()
	}
}

// protect writes whom no ban may cover: the host's own addresses, its gateways and resolvers, in each network namespace
// that an interface is attached in, and who is logged in by SSH. What is there already stays all the while, and where
// something cannot be told all of it. A ban that covers somebody who comes new is lifted.
func (i *Instance) protect() error {
	before, err := i.protectedKeys()
	if err != nil {
		return err
	}
	found, whole, findErr := i.findProtected()
	keep := map[limiterPrefixKey]bool{}
	var fresh []netip.Prefix
	for _, one := range found {
		p := one.Prefix
		if p.Bits() > strikerOf(p.Addr()).Bits() {
			p = strikerOf(p.Addr())
		}
		key := limiterPrefixKey{Prefixlen: uint32(p.Bits() + lpmFamilyBits), Addr: dataAddr(p.Masked().Addr())}
		if keep[key] = true; before[key] {
			continue
		}
		if err := i.maps.Protected.Put(key, uint64(1)); err != nil {
			return fmt.Errorf("protect %s from bans: %w", p, err)
		}
		fresh = append(fresh, p)
	}
	if err := i.liftBansIn(fresh); err != nil {
		return err
	}
	if findErr != nil {
		return fmt.Errorf("find whom no ban may cover: %w", findErr)
	}
	if !whole {
		return nil
	}
	return i.unprotectBut(keep, before)
}

// Protected are the host's own addresses, its gateways and resolvers, in the network namespace of the caller and in
// each that an interface is attached in, and who is logged in by SSH. Each prefix comes once. What was found comes with
// the error.
func (i *Instance) Protected() ([]Protected, error) {
	found, whole, err := i.findProtected()
	if err != nil || !whole {
		// Those whom bans spare may be more: of namespaces that were there when they were looked for.
		spared, more := i.protectedKeys()
		err = errors.Join(err, more)
		for key := range spared {
			if p, ok := (listMaps{}).prefixOf(key, true); ok {
				found = append(found, Protected{Prefix: p, What: "spared by bans"})
			}
		}
	}
	seen := map[netip.Prefix]bool{}
	return slices.DeleteFunc(found, func(one Protected) bool {
		before := seen[one.Prefix]
		seen[one.Prefix] = true
		return before
	}), err
}

// findProtected finds all that can be told, also with an error: operators first, then what is of the caller's network
// namespace. whole: none was out of reach.
func (i *Instance) findProtected() (found []Protected, whole bool, err error) {
	operators, err := Operators()
	for _, op := range operators {
		addr := op.Peer.Addr()
		found = append(found, Protected{netip.PrefixFrom(addr, addr.BitLen()), op.session(), &op})
	}
	own, ownErr := OwnAddresses()
	found = append(found, own...)
	all, attachedErr := i.attached()
	cookie, cookieErr := netnsCookie()
	err = errors.Join(err, ownErr, attachedErr, cookieErr)
	seen, whole := map[uint64]bool{cookie: true}, true
	for _, at := range all {
		if seen[at.key.cookie] {
			continue
		}
		seen[at.key.cookie] = true
		insideErr := at.insideNetns(func() error {
			inside, err := OwnAddresses()
			for _, one := range inside {
				one.What += ", in another network namespace"
				found = append(found, one)
			}
			return err
		})
		if errors.Is(insideErr, errNetnsGone) {
			whole, insideErr = false, nil
		}
		err = errors.Join(err, insideErr)
	}
	return found, whole, err
}

// liftBansIn ends the bans of whoever is protected from now on.
func (i *Instance) liftBansIn(prefixes []netip.Prefix) error {
	if len(prefixes) == 0 {
		return nil
	}
	return deleteWhere(i.maps.Bans, func(key limiterBanKey, b limiterBan) bool {
		p, ok := b.prefix(key)
		return ok && slices.ContainsFunc(prefixes, func(one netip.Prefix) bool { return one.Contains(p.Addr()) })
	})
}

func (i *Instance) protectedKeys() (map[limiterPrefixKey]bool, error) {
	var key limiterPrefixKey
	var value uint64
	keys := map[limiterPrefixKey]bool{}
	iter := i.maps.Protected.Iterate()
	for iter.Next(&key, &value) {
		keys[key] = true
	}
	if err := iter.Err(); err != nil {
		return nil, fmt.Errorf("read whom no ban may cover: %w", err)
	}
	return keys, nil
}

func (i *Instance) unprotectBut(keep, before map[limiterPrefixKey]bool) (err error) {
	for key := range before {
		if keep[key] {
			continue
		}
		if more := i.maps.Protected.Delete(key); more != nil && !isMissing(more) {
			err = errors.Join(err, fmt.Errorf("clear protected: %w", more))
		}
	}
	return err
}
