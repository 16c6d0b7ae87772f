// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
)

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
		if l == Block {
			return i.blockedBy(e), nil
		}
		return Verdict{Verdict: "pass", Reason: reasonNames[limiterReasonREASON_ALLOWED], Until: e.Expires, Entry: e}, nil
	}
	return i.checkLimits(addr, local)
}

// blockedBy is the verdict by an entry of the block list; nil is none.
func (i *Instance) blockedBy(e *Entry) Verdict {
	if e == nil {
		return Verdict{}
	}
	return Verdict{Verdict: i.refused(), Reason: reasonNames[limiterReasonREASON_BLOCKED], Until: e.Expires, Entry: e}
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
	e, err := i.coveringThat(l, addr, i.holds)
	if err != nil || e != nil || l == Allow {
		return e, err
	}
	return i.banOf(addr, forAll)
}

// coveringThat is covering among the entries that hold says.
func (i *Instance) coveringThat(l List, addr netip.Addr, hold func(limiterListEntry) bool) (*Entry, error) {
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
		if found && hold(e) {
			entry := i.entry(m, p, key, e)
			return &entry, nil
		}
	}
	return i.coveringPrefix(m, addr, hold)
}

func (i *Instance) coveringPrefix(m listMaps, addr netip.Addr, hold func(limiterListEntry) bool) (*Entry, error) {
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
		if hold(e) {
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
