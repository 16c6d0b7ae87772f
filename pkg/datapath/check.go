// SPDX-License-Identifier: Apache-2.0

package datapath

import "net/netip"

// Check says what would happen to the next new TCP connection of addr to the one service that there is.
func (i *Instance) Check(addr netip.Addr) (Verdict, error) { return i.CheckAt(addr, netip.AddrPort{}) }

// CheckAt says what would happen to the next new TCP connection of addr to a local port, from the state that
// the data path reads and by its rules. It changes nothing. The local address may be left out where
// no service depends on it.
func (i *Instance) CheckAt(addr netip.Addr, local netip.AddrPort) (Verdict, error) {
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
	return i.checkLimits(addr, local)
}

// refused is what a refusal comes to under the live policy's mode.
func (i *Instance) refused() string {
	if i.headInForce().Mode == uint32(limiterModeMODE_OBSERVE) {
		return "pass"
	}
	return "drop"
}

func (i *Instance) headInForce() limiterPolicy {
	return i.control.Policies[slotOfGeneration(i.live().inForce(monotonicNow()))]
}

// Covering is the entry of a list that covers a new connection of addr now, the longest; nil if there is none.
func (i *Instance) Covering(l List, addr netip.Addr) (*Entry, error) {
	return i.covering(l, addr.Unmap().WithZone(""))
}

// Listed is the entry of a list for just this prefix; nil if there is none that holds now.
func (i *Instance) Listed(l List, p netip.Prefix) (*Entry, error) {
	m := i.list(l)
	p = p.Masked()
	target, key := m.place(p)
	e, found, err := m.exact(target, key)
	if err != nil || !found || !i.holds(e) {
		return nil, err
	}
	entry := i.entry(m, p, key, e)
	return &entry, nil
}

// covering finds the entry of a list that covers a new connection of addr: the host, its /64, then
// the longest prefix that has not expired.
func (i *Instance) covering(l List, addr netip.Addr) (*Entry, error) {
	return i.coveringThat(l, addr, i.holds)
}

// coveringThat is covering among the entries that hold says. Prefixes of lengths that no entry has are not asked for.
func (i *Instance) coveringThat(l List, addr netip.Addr, hold func(limiterListEntry) bool) (*Entry, error) {
	m, index := i.list(l), listIndex{i.memory}
	tries := []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())}
	if addr.Is6() {
		tries = append(tries, netip.PrefixFrom(addr, 64).Masked())
	}
	for bits := addr.BitLen() - 1; bits >= 0; bits-- {
		if p := netip.PrefixFrom(addr, bits).Masked(); index.lengthInUse(l, p) {
			tries = append(tries, p)
		}
	}
	for _, p := range tries {
		target, key := m.place(p)
		e, found, err := m.exact(target, key)
		if err != nil {
			return nil, err
		}
		if found && hold(e) {
			entry := i.entry(m, p, key, e)
			return &entry, nil
		}
	}
	return nil, nil
}
