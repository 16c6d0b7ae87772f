// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// checker looks at the limits that a new connection meets, as bpf/many.h does, and changes nothing.
type checker struct {
	*Instance
	slot   uint32
	head   limiterPolicy
	source netip.Addr
	local  netip.Addr
	in     uint64 // the sets of the source
	nowNs  uint64
}

// checkLimits says what the limits of the service at local would do. An invalid local is the one service
// that there is.
func (i *Instance) checkLimits(source netip.Addr, local netip.AddrPort) (Verdict, error) {
	slot := slotOfGeneration(i.live().inForce(monotonicNow()))
	c := &checker{
		Instance: i, slot: slot, head: i.control.Policies[slot], source: source, local: local.Addr(), nowNs: monotonicNow(),
	}
	place, err := c.service(local)
	if err != nil {
		return Verdict{}, err
	}
	if place < 0 {
		return Verdict{Verdict: "pass", Reason: reasonNames[limiterReasonREASON_NO_SERVICE]}, nil
	}
	s := c.tables.Services[c.slot*uint32(limiterAbiMAX_SERVICES)+uint32(place)]
	if ban, err := i.banOf(source, s.Id); err != nil || ban != nil {
		return i.blockedBy(ban), err
	}
	if c.in, err = c.sets(); err != nil {
		return Verdict{}, err
	}
	p, err := i.PolicyInForce()
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{Verdict: "pass", Reason: reasonNames[limiterReasonREASON_ALLOWED]}
	if c.in&s.Allow == 0 {
		if v, err = c.look(s, p); err != nil {
			return Verdict{}, err
		}
	}
	if place < len(p.Services) {
		v.Service = p.Services[place].Name
	}
	return v, nil
}

// service finds the place of the service in the policy as bpf/service.h does; -1 if there is none.
func (c *checker) service(local netip.AddrPort) (int, error) {
	switch {
	case local.Port() != 0:
		listen, err := c.listen(local)
		place := int(listen&uint32(limiterListenLISTEN_SERVICE)) - 1
		if err == nil && place >= int(limiterAbiMAX_SERVICES) {
			err = errDamaged("ports in force")
		}
		return place, err
	case c.head.Services > 1:
		return -1, fail(ErrInvalid, "there are %d services; say which with --port N", c.head.Services)
	}
	return int(c.head.Services) - 1, nil
}

// listen is what the table of ports says of a TCP port.
func (c *checker) listen(local netip.AddrPort) (uint32, error) {
	listen := uint32(c.tables.Ports[c.slot].Listen[local.Port()])
	class := uint32(limiterListenLISTEN_CLASS)
	if listen&class == 0 {
		return listen, nil
	}
	addr := local.Addr()
	if !addr.IsValid() {
		return 0, fail(ErrInvalid, "who listens on port %d depends on the local address; say which with --port ADDRESS:%d", local.Port(), local.Port())
	}
	var value uint64
	err := c.maps.Locals.Lookup(scopedKey(c.slot<<16|listen&^class, netip.PrefixFrom(addr, addr.BitLen())), &value)
	if isMissing(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read local addresses: %w", err)
	}
	return uint32(value), nil
}

func (c *checker) sets() (in uint64, err error) {
	err = c.maps.Sets.Lookup(scopedKey(c.slot, netip.PrefixFrom(c.source, c.source.BitLen())), &in)
	if err != nil && !isMissing(err) {
		return 0, fmt.Errorf("read sets: %w", err)
	}
	return in, nil
}

// look asks the limits in their order; the first that refuses decides.
func (c *checker) look(s limiterService, p *policy.Policy) (Verdict, error) {
	underLimit, tableFull := reasonNames[limiterReasonREASON_UNDER_LIMIT], reasonNames[limiterReasonREASON_TABLE_FULL]
	exempt := reasonNames[limiterReasonREASON_EXEMPT]
	pass := Verdict{Verdict: "pass", Reason: underLimit}
	limits, err := c.limitsOf(s)
	if err != nil {
		return Verdict{}, err
	}
	for _, at := range limits {
		l := at.limiterLimit
		if !c.applies(&l) {
			continue
		}
		v, err := c.lookAt(&l)
		if err != nil {
			return Verdict{}, err
		}
		if bytesOut(&l) && v.Reason == underLimit {
			continue // it says nothing of how many connections are left
		}
		v.Limit, v.LimitName = limitOf(p, at.place)
		switch {
		case v.Reason == underLimit && (pass.Limit == nil || pass.Reason == underLimit && v.Left < pass.Left):
			pass = v
		case v.Reason == underLimit:
		case v.Reason == tableFull && c.letsThrough(), v.Reason == exempt:
			pass = v // as far as this limit goes
		default:
			return v, nil
		}
	}
	return pass, nil
}

// placedLimit is a limit with its place in the policy.
type placedLimit struct {
	limiterLimit
	place uint32
}

// limitsOf are the limits that a packet to a service meets, in their order: its own, then the global ones.
func (c *checker) limitsOf(s limiterService) (out []placedLimit, err error) {
	if s.LimitCount > policy.MaxServiceLimits || c.head.GlobalCount > policy.MaxGlobalLimits {
		return nil, errDamaged("services in force")
	}
	for n := range s.LimitCount + c.head.GlobalCount {
		at := placedLimit{place: s.FirstLimit + n}
		if n >= s.LimitCount {
			at.place = c.head.GlobalFirst + n - s.LimitCount
		}
		if at.limiterLimit, err = c.limitAt(c.slot, at.place); err != nil {
			return nil, err
		}
		out = append(out, at)
	}
	return out, nil
}

// letsThrough: what meets a full table passes, as far as the limit's aggregate goes.
func (c *checker) letsThrough() bool {
	return c.head.OnTableFull == uint32(limiterOnTableFullTABLE_FULL_PASS)
}

// applies: limits of packets and bytes_in ask about more than one connection, and are left out.
func (c *checker) applies(l *limiterLimit) bool {
	byDestination := l.Per == uint8(limiterLimitPerPER_DESTINATION) || l.Per == uint8(limiterLimitPerPER_SOURCE_DESTINATION)
	counts := (l.Kind == uint8(limiterLimitKindLIMIT_NEW) || bytesOut(l)) && l.Cost != 0 || l.concurrent()
	return counts && l.Flags&uint32(limiterLimitFlagLIMIT_OBSERVES) == 0 &&
		(l.From == 0 || l.From&c.in != 0) && l.Except&c.in == 0 && (!byDestination || c.local.IsValid())
}

// limitOf is the limit at a place of the policy, with its name.
func limitOf(p *policy.Policy, place uint32) (*policy.Limit, string) {
	names := limitNames(p)
	if int(place) >= len(names) {
		return nil, ""
	}
	n := int(place)
	for i := range p.Services {
		if n < len(p.Services[i].Limits) {
			return &p.Services[i].Limits[n], names[place]
		}
		n -= len(p.Services[i].Limits)
	}
	return &p.Global.Limits[n], names[place]
}

func bytesOut(l *limiterLimit) bool { return l.Kind == uint8(limiterLimitKindLIMIT_BYTES_OUT) }

// lookAt is meter_look, or state_look for `per: service`.
func (c *checker) lookAt(l *limiterLimit) (Verdict, error) {
	if l.concurrent() {
		return c.lookAtConns(l)
	}
	owed, own := c.owed(l)
	cost := l.Cost
	if bytesOut(l) {
		cost = 1 // as limit_cost
	}
	if owed+cost <= l.Capacity {
		return Verdict{
			Verdict: "pass", Reason: reasonNames[limiterReasonREASON_UNDER_LIMIT], Left: (l.Capacity - owed) / cost,
		}, nil
	}
	exempt, err := c.exempt(l)
	if err != nil || exempt {
		return Verdict{Verdict: "pass", Reason: reasonNames[limiterReasonREASON_EXEMPT]}, err
	}
	v := Verdict{
		Verdict: c.over(l), Reason: reasonNames[limiterReason(l.Over&0xff)],
		Until: time.Now().Add(time.Duration((owed + cost - l.Capacity) << l.UnitShift)),
	}
	if !own {
		v.Reason = reasonNames[limiterReasonREASON_TABLE_FULL]
		if c.letsThrough() {
			v.Verdict = "pass"
		}
	}
	return v, nil
}

// over is what becomes of a new connection over a limit. Who is challenged and has no room by proof either is refused.
func (c *checker) over(l *limiterLimit) string {
	action := limiterAction(l.Over >> uint32(limiterVerdictVERDICT_ACTION_SHIFT) & 7)
	refused := c.refused()
	if action != limiterActionACTION_CHALLENGE || refused != "drop" {
		return refused
	}
	if second := l.Proven; second != 0 {
		proven, err := c.limitAt(c.slot, uint32(second))
		if err == nil {
			if owed, own := c.owed(&proven); own && owed+proven.Cost > proven.Capacity {
				return refused
			}
		}
	}
	return "challenge"
}

// exempt is is_exempt.
func (c *checker) exempt(l *limiterLimit) (bool, error) {
	if l.Flags&uint32(limiterLimitFlagLIMIT_EXEMPTS) == 0 {
		return false, nil
	}
	var at uint64
	err := c.maps.Verified.Lookup(dataAddr(c.sourceOf(c.source).Addr()), &at)
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read verified sources: %w", err)
	}
	return int64(c.nowNs-at) < int64(verifiedFor), nil
}

// verifiedFor is VERIFIED_FOR_NS.
const verifiedFor = 10 * time.Minute

// owed is the level that the next connection meets, and whether the debt is its own: a newcomer takes over
// the oldest slot of its bucket, with what that one owes.
func (c *checker) owed(l *limiterLimit) (owed uint64, own bool) {
	if !l.metered() {
		tat := atomic.LoadUint64(&c.tables.LimitStates[l.Id].TatNs)
		return tat - min(tat, c.nowNs), true
	}
	hash := hashKey(&c.control.Hash, l, c.source, c.local)
	if slot := meterSlot(c.tables, l, hash); slot != nil {
		v := atomic.LoadUint64(slot)
		return level(l, v, c.nowNs), v&slotBorrowed == 0
	}
	owed = ^uint64(0)
	bucket := bucketOf(c.tables, l, hash)
	for way := range bucket.Slot {
		owed = min(owed, level(l, atomic.LoadUint64(&bucket.Slot[way]), c.nowNs))
	}
	return owed, false
}
