// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/synward/synward/pkg/policy"
)

// banSupported refuses bans for which no strike would ever come, and those of others than who struck: what proves a source
// answers a new connection, or is acknowledged.
func banSupported(l policy.Limit) error {
	switch most := maxProbes(l.Ban.Within); {
	case l.Kind != policy.KindNew && l.Kind != policy.KindBytesOut:
		return fail(ErrInvalid, "a ban needs proof of its source, which over this limit (%s, over: %s) nothing asks for yet; "+
			"use `new` or `bytes_out`, or take `ban` out", l.Kind, l.Over)
	case l.Kind == policy.KindNew && (l.Prefix.IPv4 < 32 || l.Prefix.IPv6 < 64):
		return fail(ErrInvalid, "a ban is of one address or /64, and this limit counts a whole %s as one, where one could have another banned; "+
			"take `ban` out, or write `prefix: {ipv4: 32, ipv6: 64}` in the limit", l.Prefix)
	case l.Kind == policy.KindBytesOut && (l.Ban.After-1) >= ceilDiv(uint64(l.Ban.Within), uint64(l.Rate.Period)):
		return fail(ErrInvalid, "who is over %s strikes once in the period of its rate, %s, so %d strikes never come in the time of `within`; "+
			"make it longer, or `after` smaller", l.Kind, policy.FormatByteRate(l.Rate), l.Ban.After)
	case banProbes(l) && l.Ban.After > most:
		return fail(ErrInvalid, "a ban after %d strikes within %s never comes: a source is asked for proof %d times in that time at most; "+
			"lower `after`, or use `over: challenge`", l.Ban.After, l.Ban.Within, most)
	case l.Ban.Prefix != policy.PrefixLengths{IPv4: 32, IPv6: 64}:
		return fail(ErrInvalid, "this version bans addresses of IPv4 and /64s of IPv6 only; write `prefix: {ipv4: 32, ipv6: 64}` in `ban`")
	}
	return nil
}

// strikes: proof that this limit refuses is a strike. Where everything is only observed, nothing is refused.
func (c *compiled) strikes(l policy.Limit) bool {
	return l.Ban != nil && c.source.Mode != policy.Observe
}

// banProbes: a limit that asks for proof by probes, if its ban strikes.
func banProbes(l policy.Limit) bool {
	return l.Ban != nil && l.Kind == policy.KindNew && (l.Over == policy.OverDrop || l.Over == policy.OverReset)
}

// maxProbes is how often one source is probed in so long a time.
func maxProbes(within time.Duration) uint64 {
	return probesAtOnce + probesPerSecond*uint64(within/time.Second)
}

// probes: SYNs over this limit are probed.
func (c *compiled) probes(l policy.Limit) bool { return c.strikes(l) && banProbes(l) }

func compileBan(l policy.Limit) limiterBanTerm {
	b := l.Ban
	scope := limiterBanScopeBAN_GLOBAL
	if b.Scope == policy.BanService {
		scope = limiterBanScopeBAN_SERVICE
	}
	return limiterBanTerm{
		WithinMs: milliseconds(b.Within), ForMs: milliseconds(b.For), MaxMs: milliseconds(b.Max),
		EveryMs: milliseconds(l.Rate.Period),
		After:   uint32(b.After), Growth: uint32(math.Round(b.Growth * 100)), Scope: uint32(scope),
	}
}

// bansByAcked: a limit with a second meter, which only what is acknowledged charges.
func (c *compiled) bansByAcked(l policy.Limit) bool {
	return c.strikes(l) && l.Kind == policy.KindBytesOut
}

// bansByProof: the answer to a challenge or a probe may be a strike.
func (c *compiled) bansByProof() bool {
	return slices.ContainsFunc(everyLimit(c.source), func(l policy.Limit) bool { return c.strikes(l) && (proves(l) || banProbes(l)) })
}

// addAcked adds the second meters of limits of bytes_out that ban, in regions of their own as those of proof. Whoever
// is banned has downloaded a whole burst himself, so no prefix is wider than a striker. They hold a burst at most: a ban
// is for what goes on, and not for what is owed.
func (c *compiled) addAcked(p *policy.Policy) error {
	for place, l := range everyLimit(p) {
		if !c.bansByAcked(l) {
			continue
		}
		first, at := c.limits[uint32(place)], uint32(len(c.limits))
		if at >= firstAnswerAt {
			return fail(ErrInvalid, "too many limits of bytes_out that ban; each takes the room of two")
		}
		l.Prefix = policy.PrefixLengths{IPv4: 32, IPv6: max(l.Prefix.IPv6, 64)}
		one, err := compileLimit(l)
		if err != nil {
			return err
		}
		one.From, one.Except = first.From, first.Except
		one.Flags |= uint32(limiterLimitFlagLIMIT_PROVEN)
		one.Debt = one.Capacity
		first.Acked = at
		c.limits[at], c.buckets[at] = &one.limiterLimit, one.buckets
		c.identity[at] = "acked " + c.identity[uint32(place)]
	}
	return nil
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
