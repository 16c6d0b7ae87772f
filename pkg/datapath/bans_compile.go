// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math"
	"time"

	"github.com/cilium/ebpf"

	"github.com/synward/synward/pkg/policy"
)

// banSupported refuses bans for which no strike would ever come: only a limit that challenges whom it names gets proof
// of its source.
func banSupported(l policy.Limit) error {
	switch {
	case !proves(l):
		return fail(ErrInvalid, "a ban needs proof of its source, which over this limit (%s, over: %s) nothing asks for yet; "+
			"use `new` with `over: challenge`, or take `ban` out", l.Kind, l.Over)
	case l.Prefix.IPv4 < 32 || l.Prefix.IPv6 < 64:
		return fail(ErrInvalid, "a ban is of one address or /64, and this limit counts a whole %s as one, where one could have another banned; "+
			"take `ban` out, or write `prefix: {ipv4: 32, ipv6: 64}` in the limit", l.Prefix)
	case l.Ban.Prefix != policy.PrefixLengths{IPv4: 32, IPv6: 64}:
		return fail(ErrInvalid, "this version bans addresses of IPv4 and /64s of IPv6 only; write `prefix: {ipv4: 32, ipv6: 64}` in `ban`")
	}
	return nil
}

// strikes: proof that this limit refuses is a strike. Where everything is only observed, nothing is refused.
func (c *compiled) strikes(l policy.Limit) bool {
	return l.Ban != nil && c.source.Mode != policy.Observe
}

func compileBan(b *policy.Ban) limiterBanTerm {
	scope := limiterBanScopeBAN_GLOBAL
	if b.Scope == policy.BanService {
		scope = limiterBanScopeBAN_SERVICE
	}
	return limiterBanTerm{
		WithinMs: milliseconds(b.Within), ForMs: milliseconds(b.For), MaxMs: milliseconds(b.Max),
		After: uint32(b.After), Growth: uint32(math.Round(b.Growth * 100)), Scope: uint32(scope),
	}
}

func milliseconds(d time.Duration) uint64 { return uint64(d / time.Millisecond) }

func banTermKey(slot, limit uint32) uint32 { return slot<<16 | limit }

// writeBans says for each limit of a slot that bans how.
func (i *Instance) writeBans(c *compiled, slot uint32) error {
	for at, terms := range c.bans {
		if err := i.maps.BanTerms.Put(banTermKey(slot, c.limits[at].Id), terms); err != nil {
			return fmt.Errorf("write ban: %w", err)
		}
	}
	return nil
}

func (i *Instance) clearBanTerms(slot uint32) error {
	return deleteWhere(i.maps.BanTerms, func(key uint32, _ limiterBanTerm) bool { return key>>16 == slot })
}

// deleteWhere takes entries out of a hash. What programs add meanwhile may be missed.
func deleteWhere[K, V any](m *ebpf.Map, gone func(K, V) bool) error {
	var keys []K
	err := eachOf(m, func(key K, value V) {
		if gone(key, value) {
			keys = append(keys, key)
		}
	})
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := m.Delete(key); err != nil && !isMissing(err) {
			return fmt.Errorf("clear %s: %w", m, err)
		}
	}
	return nil
}
