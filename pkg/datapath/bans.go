// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// banMaps are the maps of strikes and bans; see bpf/maps.h.
type banMaps struct {
	Bans       *ebpf.Map
	Strikes    *ebpf.Map
	BanTerms   *ebpf.Map
	Protected  *ebpf.Map
	BanTallies *ebpf.Map
	// AckedSockets holds nothing that outlives its sockets.
	AckedSockets *ebpf.Map
}

func (m *banMaps) byName() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		limiterMapBans:       &m.Bans,
		limiterMapStrikes:    &m.Strikes,
		limiterMapBanTerms:   &m.BanTerms,
		limiterMapProtected:  &m.Protected,
		limiterMapBanTallies: &m.BanTallies,

		limiterMapAckedSockets: &m.AckedSockets,
	}
}

// forAll stands for all services in the key of a ban.
const forAll = uint32(limiterBanSizeBAN_FROM_ALL)

// strikerOf is what strikes and is banned as one: an IPv4 address, an IPv6 /64.
func strikerOf(addr netip.Addr) netip.Prefix {
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	return netip.PrefixFrom(addr, bits).Masked()
}

func (b limiterBan) prefix(key limiterBanKey) (netip.Prefix, bool) {
	addr := netAddr(key.Addr)
	return strikerOf(addr), addr.IsValid()
}

// inForce: it refuses packets now.
func (b limiterBan) inForce(nowNs uint64) bool { return b.ExpiresNs > nowNs }

// faded: it says nothing of the next ban any more.
func (b limiterBan) faded(nowNs uint64) bool {
	return !b.inForce(nowNs) && (nowNs-b.ExpiresNs)/max(b.FadeNs, 1) >= uint64(b.Repeats)
}

func (b limiterBan) entry(key limiterBanKey, p netip.Prefix, names map[uint32]string) Entry {
	service := names[b.Service]
	reason := fmt.Sprintf("%d strikes", b.Strikes)
	if b.Strikes == 1 {
		reason = "1 strike"
	}
	if service != "" {
		reason += " at " + service
	}
	e := Entry{
		Prefix: p, Scope: ScopeAll, Origin: OriginAuto, Reason: reason, Hits: b.Hits, Expires: wallTime(b.ExpiresNs),
		Ban: &Ban{
			Service: service, Only: key.Service != forAll, Strikes: uint64(b.Strikes), Repeats: uint64(b.Repeats), Fades: time.Duration(b.FadeNs),
		},
	}
	if b.MadeNs != 0 { // of one look at the clock, or the time between them would be another
		e.Created = e.Expires.Add(-time.Duration(b.ExpiresNs - b.MadeNs))
	}
	return e
}

// eachBan visits the bans that visit is not to leave out, in no order. Pinned maps are input: what makes no sense is
// left out.
func (i *Instance) eachBan(want func(limiterBan) bool, visit func(Entry)) error {
	names, err := i.serviceNames()
	if err != nil {
		return err
	}
	return eachOf(i.maps.Bans, func(key limiterBanKey, b limiterBan) {
		if p, ok := b.prefix(key); ok && want(b) {
			visit(b.entry(key, p, names))
		}
	})
}

// bansInForce are in no order.
func (i *Instance) bansInForce() (out []Entry, err error) {
	now := monotonicNow()
	err = i.eachBan(func(b limiterBan) bool { return b.inForce(now) }, func(e Entry) { out = append(out, e) })
	return out, err
}

// keptBans visits bans in force, and those that count for the next one.
func (i *Instance) keptBans(visit func(Entry) error) error {
	now := monotonicNow()
	var failed error
	err := i.eachBan(func(b limiterBan) bool { return !b.faded(now) }, func(e Entry) {
		if failed == nil {
			failed = visit(e)
		}
	})
	return errors.Join(err, failed)
}

// banOf is the ban in force of an address, from a service or from all; nil if there is none.
func (i *Instance) banOf(addr netip.Addr, service uint32) (*Entry, error) {
	p := strikerOf(addr)
	key := limiterBanKey{Addr: dataAddr(p.Addr()), Service: service}
	var b limiterBan
	err := i.maps.Bans.Lookup(key, &b)
	if isMissing(err) || err == nil && !b.inForce(monotonicNow()) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up ban: %w", err)
	}
	names, err := i.serviceNames()
	if err != nil {
		return nil, err
	}
	e := b.entry(key, p, names)
	return &e, nil
}

// banKeys are those that bans of a prefix may have.
func (i *Instance) banKeys(p netip.Prefix) ([]limiterBanKey, error) {
	names, err := i.serviceNames()
	if err != nil || p != strikerOf(p.Addr()) {
		return nil, err
	}
	keys := []limiterBanKey{{Addr: dataAddr(p.Addr()), Service: forAll}}
	for id := range names {
		keys = append(keys, limiterBanKey{Addr: dataAddr(p.Addr()), Service: id})
	}
	return keys, nil
}

// liftBan ends the bans of just this prefix, and with them what counts for the next. It is false where none was in
// force.
func (i *Instance) liftBan(p netip.Prefix) (lifted bool, err error) {
	keys, err := i.banKeys(p)
	if err != nil {
		return false, err
	}
	now := monotonicNow()
	for _, key := range keys {
		var b limiterBan
		err := i.maps.Bans.Lookup(key, &b)
		if err == nil {
			i.logBans()
			err = i.maps.Bans.Delete(key)
		}
		if err != nil && !isMissing(err) {
			return lifted, fmt.Errorf("lift ban of %s: %w", p, err)
		}
		lifted = lifted || err == nil && b.inForce(now)
	}
	return lifted, nil
}

// LiftBans ends all bans, forgets what counts for the next ones, and returns how many were in force.
func (i *Instance) LiftBans() (lifted int, err error) {
	if err := i.beginChange(); err != nil {
		return 0, err
	}
	i.logBans()
	now := monotonicNow()
	err = deleteWhere(i.maps.Bans, func(_ limiterBanKey, b limiterBan) bool {
		if b.inForce(now) {
			lifted++
		}
		return true
	})
	return lifted, err
}

// logBans: what is kept of bans is written anew, for the journal has no words for them.
func (i *Instance) logBans() { i.log.listed += maxListLog + 1 }

// forgetBans clears strikes and bans of an address.
func (i *Instance) forgetBans(addr netip.Addr) error {
	p := strikerOf(addr.Unmap().WithZone(""))
	striker := dataAddr(p.Addr())
	err := deleteWhere(i.maps.Strikes, func(key limiterStrikeKey, _ limiterStriker) bool { return key.Addr == striker })
	if err != nil {
		return err
	}
	held := false
	if err := eachOf(i.maps.Bans, func(key limiterBanKey, _ limiterBan) { held = held || key.Addr == striker }); err != nil || !held {
		return err
	}
	if err := i.beginChange(); err != nil {
		return err
	}
	_, err = i.liftBan(p)
	return err
}

// forgetBansOf forgets bans from a service alone that is gone, before another has its id, and where others came from.
// Worst case: hits of this very moment are lost.
func (i *Instance) forgetBansOf(service uint32) error {
	now := monotonicNow()
	renamed := map[limiterBanKey]limiterBan{}
	err := deleteWhere(i.maps.Bans, func(key limiterBanKey, b limiterBan) bool {
		// The data path writes only those that have ended, and then writes where it came from too.
		if b.Service == service && key.Service == forAll && b.inForce(now) {
			b.Service = forAll
			renamed[key] = b
		}
		return key.Service == service
	})
	for key, b := range renamed {
		err = errors.Join(err, i.maps.Bans.Put(key, b))
	}
	return err
}

// forgetStrikesOf forgets the strikes of limits that are gone, before others have their ids.
func (i *Instance) forgetStrikesOf(limits []uint32) error {
	if len(limits) == 0 {
		return nil
	}
	return deleteWhere(i.maps.Strikes, func(key limiterStrikeKey, _ limiterStriker) bool { return slices.Contains(limits, key.Limit) })
}

// loadBan puts a ban back that was kept; one from a service alone only where there is a service of its name, see
// placeBans. full is 1 where it did not fit.
func (i *Instance) loadBan(e Entry) (full int, err error) {
	if e.Prefix != strikerOf(e.Prefix.Addr()) {
		return 0, fmt.Errorf("load ban of %s: it is neither an address of IPv4 nor a /64", e.Prefix)
	}
	key := limiterBanKey{Addr: dataAddr(e.Prefix.Addr()), Service: forAll}
	b := limiterBan{
		ExpiresNs: dataTime(e.Expires), FadeNs: uint64(max(e.Ban.Fades, 0)), Hits: e.Hits, Service: forAll,
		Repeats: uint32(min(e.Ban.Repeats, uint64(limiterBanSizeBAN_REPEATS))), Strikes: uint32(e.Ban.Strikes),
	}
	if !e.Created.IsZero() {
		// Signed: it may have been made before this boot.
		b.MadeNs = uint64(int64(monotonicNow()) + int64(time.Until(e.Created)))
	}
	if off := wallTime(0).Sub(e.Expires); off > 0 && e.Ban.Fades > 0 {
		// Its end is that of the last boot at the earliest, and what faded until then is taken off here.
		b.Repeats -= uint32(min(uint64(off/e.Ban.Fades), uint64(b.Repeats)))
	}
	if b.Repeats == 0 {
		return 0, nil
	}
	if e.Ban.Service != "" {
		if b.Service, err = i.serviceID(e.Ban.Service); err != nil {
			return 0, err
		}
	}
	if e.Ban.Service != "" && b.Service == forAll {
		i.unplaced = append(i.unplaced, e)
	}
	if e.Ban.Only && b.Service == forAll {
		return 0, nil
	}
	if e.Ban.Only {
		key.Service = b.Service
	}
	err = i.maps.Bans.Put(key, b)
	if listIsFull(err) {
		return 1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("load ban of %s: %w", e.Prefix, err)
	}
	return 0, nil
}

// placeBans loads those again whose service has come with the policy since. left are bans from a service alone that
// there is none of: they are gone.
func (i *Instance) placeBans() (left int, err error) {
	again := i.unplaced
	i.unplaced = nil
	for _, e := range again {
		if _, err := i.loadBan(e); err != nil {
			return left, err
		}
	}
	for _, e := range i.unplaced {
		if e.Ban.Only {
			left++
		}
	}
	i.unplaced = nil
	return left, nil
}

// sweepBans takes away what has ended and faded, once the table is half full. Worst case: a ban that is made of such
// a source at this very moment is lost, and its next strikes make another.
func (i *Instance) sweepBans() error {
	var held int
	if err := eachOf(i.maps.Bans, func(limiterBanKey, limiterBan) { held++ }); err != nil {
		return err
	}
	if held < int(i.maps.Bans.MaxEntries())/2 {
		return nil
	}
	now := monotonicNow()
	return deleteWhere(i.maps.Bans, func(_ limiterBanKey, b limiterBan) bool { return b.faded(now) })
}

// BanTally is what was counted of strikes since the instance was made.
type BanTally struct {
	// Strikes is proof that was refused over a limit that bans, Bans what came of it, Spared the bans that were due for
	// somebody whom the host cannot do without, Unfit those that the table had no room for.
	Strikes, Bans, Spared, Unfit uint64
}

// BanTally sums up what all CPUs counted.
func (i *Instance) BanTally() (sum BanTally, err error) {
	var perCPU []limiterBanTally
	if err := i.maps.BanTallies.Lookup(uint32(0), &perCPU); err != nil {
		return sum, fmt.Errorf("read bans: %w", err)
	}
	for _, t := range perCPU {
		sum.Strikes += t.Strikes
		sum.Bans += t.Bans
		sum.Spared += t.Spared
		sum.Unfit += t.Unfit
	}
	return sum, nil
}

// serviceID is the id that a service's counts are kept under; forAll where there is none of this name.
func (i *Instance) serviceID(name string) (uint32, error) {
	names, err := i.serviceNames()
	for id, one := range names {
		if one == name {
			return id, err
		}
	}
	return forAll, err
}

// Strikes are the strikes of an address that count now, by the name of the limit.
func (i *Instance) Strikes(addr netip.Addr) (map[string]uint64, error) {
	p, err := i.PolicyInForce()
	if err != nil {
		return nil, err
	}
	now := monotonicNow()
	limits, err := i.limitsInForce(i.live().inForce(now))
	if err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	striker := dataAddr(strikerOf(addr.Unmap().WithZone("")).Addr())
	for at, l := range everyLimit(p) {
		if l.Ban == nil {
			continue
		}
		var s limiterStriker
		err := i.maps.Strikes.Lookup(limiterStrikeKey{Addr: striker, Limit: limits[uint32(at)].Id}, &s)
		if err != nil && !isMissing(err) {
			return nil, fmt.Errorf("look up strikes: %w", err)
		}
		if n := s.Word & 0xffff; err == nil && n > 0 && now/uint64(time.Millisecond)-s.Word>>16 < milliseconds(l.Ban.Within) {
			_, name := limitOf(p, uint32(at))
			out[name] = n
		}
	}
	return out, nil
}
