// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// Check says what would happen to the next new connection of addr, from the state that the data path
// reads and by its rules. It changes nothing.
func (i *Instance) Check(addr netip.Addr) (Verdict, error) {
	addr = addr.Unmap().WithZone("")
	for _, l := range []List{Allow, Block} {
		e, err := i.covering(l, addr)
		if err != nil {
			return Verdict{}, err
		}
		if e == nil {
			continue
		}
		v := Verdict{Verdict: "pass", Reason: reasonNames[limiterReasonREASON_ALLOWED], Until: e.Expires, Entry: e}
		if l == Block {
			v.Verdict, v.Reason = i.refused(), reasonNames[limiterReasonREASON_BLOCKED]
		}
		return v, nil
	}
	return i.checkLimit(addr)
}

// refused is what a refusal comes to under the live policy's mode.
func (i *Instance) refused() string {
	if p, err := i.Policy(); err == nil && p.Mode == "observe" {
		return "pass"
	}
	return "drop"
}

// covering finds the entry of a list that covers a new connection of addr: the host, its /64, then
// the longest prefix that has not expired.
func (i *Instance) covering(l List, addr netip.Addr) (*Entry, error) {
	m := i.list(l)
	tries := []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())}
	if addr.Is6() {
		tries = append(tries, netip.PrefixFrom(addr, 64).Masked())
	}
	for _, p := range tries {
		target, key := m.place(p)
		e, found, err := m.exact(target, key)
		if err != nil {
			return nil, err
		}
		if found && !expired(e) {
			entry := i.entry(m, p, key, e)
			return &entry, nil
		}
	}
	return i.coveringPrefix(m, addr)
}

func (i *Instance) coveringPrefix(m listMaps, addr netip.Addr) (*Entry, error) {
	key := limiterPrefixKey{Prefixlen: uint32(addr.BitLen()) + lpmFamilyBits, Addr: dataAddr(addr)}
	for {
		var e limiterListEntry
		err := m.prefixes.Lookup(key, &e)
		if isMissing(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", addr, err)
		}
		if e.Prefixlen < lpmFamilyBits || e.Prefixlen > key.Prefixlen {
			return nil, fmt.Errorf("look up %s: the entry's prefix length %d makes no sense: the pins are damaged", addr, e.Prefixlen)
		}
		if !expired(e) {
			p := netip.PrefixFrom(addr, int(e.Prefixlen)-lpmFamilyBits).Masked()
			_, exact := m.place(p)
			entry := i.entry(m, p, exact, e)
			return &entry, nil
		}
		if e.Prefixlen == lpmFamilyBits {
			return nil, nil
		}
		key.Prefixlen = e.Prefixlen - 1
	}
}

// checkLimit looks at the source's level as meter_charge would.
func (i *Instance) checkLimit(addr netip.Addr) (Verdict, error) {
	pass := Verdict{Verdict: "pass", Reason: reasonNames[limiterReasonREASON_UNDER_LIMIT]}
	_, p, err := i.livePolicy()
	if err != nil {
		return Verdict{}, err
	}
	l := p.Limit
	if l.Kind == uint32(limiterLimitKindLIMIT_NONE) || l.Cost == 0 {
		return pass, nil
	}
	w, err := mapWords(i.maps.Meters)
	if err != nil {
		return Verdict{}, fmt.Errorf("read meters: %w", err)
	}
	defer w.close()
	owed, own := owedBy(w, l, sourceOf(addr).Addr(), monotonicNow())
	if owed+l.Cost <= l.Capacity {
		pass.Left = (l.Capacity - owed) / l.Cost
		return pass, nil
	}
	over := Verdict{
		Verdict: i.refused(), Reason: reasonNames[limiterReasonREASON_OVER_NEW],
		Until: time.Now().Add(time.Duration((owed + l.Cost - l.Capacity) << l.UnitShift)),
	}
	if !own {
		over.Reason = reasonNames[limiterReasonREASON_TABLE_FULL]
		if p.OnTableFull == uint32(limiterOnTableFullTABLE_FULL_PASS) {
			over.Verdict = "pass"
		}
	}
	return over, nil
}

// owedBy is the level that a source's next connection meets, and whether the debt is its own: a
// newcomer takes over the oldest slot of its bucket, with what that one owes.
func owedBy(w *words, l limiterLimit, source netip.Addr, nowNs uint64) (owed uint64, own bool) {
	if slot := meterSlot(w, l, source); slot != nil {
		v := atomic.LoadUint64(slot)
		return level(l, v, nowNs), v&slotBorrowed == 0
	}
	bucket := uint64(l.FirstBucket) + uint64(uint32(hashAddr(l.Key, source))&l.BucketMask)
	ways := uint64(limiterAbiMETER_WAYS)
	owed = ^uint64(0)
	for way := range ways {
		owed = min(owed, level(l, atomic.LoadUint64(&w.all[bucket*ways+way]), nowNs))
	}
	return owed, false
}
