// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

// Seed draws the seed of what a test draws, and logs it.
func Seed(t *testing.T) uint64 { return testSeed(t) }

// Unattached is an instance of its own, with no program and no pin.
func Unattached(t *testing.T) *Instance {
	t.Helper()
	testenv.RequireRoot(t)
	m, err := createMaps()
	must(t, err)
	i, err := newInstance("", nil, m)
	must(t, err)
	t.Cleanup(i.release)
	must(t, i.begin())
	return i
}

// Placed is what limits and services of a policy must find again under the next one to go on: the ids of
// services, and all that the data path reads of each limit.
func (i *Instance) Placed() (string, error) {
	generation := i.live().generation
	limits, err := i.limitsInForce(generation)
	if err != nil {
		return "", err
	}
	text := ""
	for n := range i.control.Policies[slotOfGeneration(generation)].Services {
		text += fmt.Sprintf("service %d: %+v\n", n, i.tables.Services[slotOfGeneration(generation)*uint32(limiterAbiMAX_SERVICES)+n])
	}
	for _, at := range sortedPlaces(limits) {
		text += fmt.Sprintf("limit %d: %+v\n", at, limits[at])
	}
	return text, nil
}

// holding compares what lies in the maps with a policy, by nothing that compiles one: it asks the tables, for
// addresses and ports where they may change their mind, and turns numbers back into words.
type holding struct {
	*Instance
	p      *policy.Policy
	slot   uint32
	probes map[netip.Addr]uint64 // addresses, and the sets that each is in
	found  []string
}

// Held says in what the maps in force differ from a normal policy.
func (i *Instance) Held(p *policy.Policy) (differences []string, err error) {
	h := &holding{Instance: i, p: p, slot: slotOfGeneration(i.live().generation), probes: map[netip.Addr]uint64{}}
	for _, step := range []func() error{h.lookUpSets, h.head, h.services, h.listens, h.lists} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return h.found, nil
}

func (h *holding) same(what string, got, want any) {
	if got != want {
		h.found = append(h.found, fmt.Sprintf("%s: the maps hold %v, the policy says %v", what, got, want))
	}
}

func (h *holding) head() error {
	head := h.control.Policies[h.slot]
	h.same("generation", uint16(head.Generation), h.live().generation)
	h.same("mode: observe", head.Mode == uint32(limiterModeMODE_OBSERVE), h.p.Mode == policy.Observe)
	h.same("on_table_full: drop", head.OnTableFull == uint32(limiterOnTableFullTABLE_FULL_DROP), h.p.OnTableFull == policy.TableFullDrop)
	h.same("strict_parsing", head.StrictParsing != 0, h.p.StrictParsing)
	h.same("source", lengthsOf(head.Mask4, head.Mask6), h.p.Source)
	h.same("services", int(head.Services), len(h.p.Services))
	h.same("global limits", int(head.GlobalCount), len(h.p.Global.Limits))
	return nil
}

func (h *holding) services() error {
	at := uint32(0)
	for n, s := range h.p.Services {
		held := h.tables.Services[h.slot*uint32(limiterAbiMAX_SERVICES)+uint32(n)]
		var name limiterServiceName
		if err := h.maps.ServiceNames.Lookup(held.Id, &name); err != nil {
			return fmt.Errorf("read name of service %d: %w", n, err)
		}
		h.same("name", text(name.Name[:]), s.Name)
		h.same(s.Name+" limits from", held.FirstLimit, at)
		h.same(s.Name+" limits", int(held.LimitCount), len(s.Limits))
		h.members(s.Name+" allow", held.Allow, s.Allow)
		for i, l := range s.Limits {
			h.limit(fmt.Sprintf("%s limit %d", s.Name, i+1), at, l)
			at++
		}
	}
	h.same("global limits from", h.control.Policies[h.slot].GlobalFirst, at)
	for i, l := range h.p.Global.Limits {
		h.limit(fmt.Sprintf("global limit %d", i+1), at, l)
		at++
	}
	for _, l := range everyLimit(h.p) { // their second meters lie behind them
		if l.Over == policy.OverChallenge && (l.Per == policy.PerSource || l.Per == policy.PerSourceDestination) {
			at++
		}
	}
	h.same("limits", h.control.Policies[h.slot].Limits, at)
	return nil
}

// edges are the addresses where a prefix begins and ends, and those just outside; none of no prefix.
func edges(p netip.Prefix) (out []netip.Addr) {
	if !p.IsValid() {
		return nil
	}
	last := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	for _, a := range []netip.Addr{p.Addr().Prev(), p.Addr(), end, end.Next()} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// lookUpSets finds which sets each edge of a prefix that the policy names as sources is in.
func (h *holding) lookUpSets() error {
	all := slices.Clone(h.p.Sets)
	add := func(members ...policy.Members) {
		for _, m := range members {
			all = append(all, policy.Set{Prefixes: m.Prefixes})
		}
	}
	limits := slices.Clone(h.p.Global.Limits)
	for _, s := range h.p.Services {
		add(s.Allow)
		limits = append(limits, s.Limits...)
	}
	for _, l := range limits {
		add(l.From, l.Except)
	}
	for _, s := range all {
		for _, p := range s.Prefixes {
			for _, a := range edges(p) {
				h.probes[a] = 0
			}
		}
	}
	for a := range h.probes {
		var in uint64
		if err := h.maps.Sets.Lookup(scopedKey(h.slot, netip.PrefixFrom(a, a.BitLen())), &in); err != nil && !isMissing(err) {
			return fmt.Errorf("read sets of %s: %w", a, err)
		}
		h.probes[a] = in
	}
	return nil
}

// members wants a bit of the sets to stand for exactly these sources.
func (h *holding) members(what string, bit uint64, m policy.Members) {
	h.same(what+" is there", bit != 0, !m.IsEmpty())
	for a, in := range h.probes {
		if _, covered := h.p.Covers(m, a); !m.IsEmpty() {
			h.same(fmt.Sprintf("%s has %s", what, a), in&bit != 0, covered)
		}
	}
}

// listens asks whose each port is where a listen address begins and ends.
func (h *holding) listens() error {
	locals := map[netip.Addr]bool{netip.MustParseAddr("198.51.100.1"): true, netip.MustParseAddr("3fff::1"): true}
	ports := map[uint16]bool{}
	for _, s := range h.p.Services {
		for _, l := range s.Listen {
			for _, port := range []uint16{l.First - 1, l.First, l.Last, l.Last + 1} {
				ports[port] = true
			}
			for _, a := range edges(l.Local) {
				locals[a] = true
			}
		}
	}
	for port := range ports {
		for local := range locals {
			for protocol, proto := range []policy.Proto{policy.TCP, policy.UDP} {
				at := netip.AddrPortFrom(local, port)
				got, err := h.listener(protocol, at)
				if err != nil {
					return err
				}
				want := "nobody"
				if s, l, ok := h.p.Match(proto, at); ok {
					want = fmt.Sprintf("%s, quic %v", s.Name, l.Proto == policy.QUIC)
				}
				h.same(fmt.Sprintf("%s/%s", at, proto), got, want)
			}
		}
	}
	return nil
}

// listener finds the service as bpf/service.h does.
func (h *holding) listener(protocol int, at netip.AddrPort) (string, error) {
	value := uint64(h.tables.Ports[h.slot].Listen[protocol*int(limiterListenLISTEN_PORTS)+int(at.Port())])
	if class := uint64(limiterListenLISTEN_CLASS); value&class != 0 {
		key := scopedKey(h.slot<<16|uint32(value&^class), netip.PrefixFrom(at.Addr(), at.Addr().BitLen()))
		value = 0
		if err := h.maps.Locals.Lookup(key, &value); err != nil && !isMissing(err) {
			return "", fmt.Errorf("read local addresses: %w", err)
		}
	}
	place := int(value&uint64(limiterListenLISTEN_SERVICE)) - 1
	if place < 0 || place >= len(h.p.Services) {
		return "nobody", nil
	}
	return fmt.Sprintf("%s, quic %v", h.p.Services[place].Name, value&uint64(limiterListenLISTEN_QUIC) != 0), nil
}

// lists wants the policy's own entries on the lists, and no others.
func (h *holding) lists() error {
	for list, members := range map[List]policy.Members{Allow: h.p.Allow, Block: h.p.Block} {
		want := map[netip.Prefix]bool{}
		for _, p := range members.Prefixes {
			want[p] = true
		}
		for _, s := range h.p.Sets {
			for _, p := range s.Prefixes {
				if slices.Contains(members.Sets, s.Name) {
					want[p] = true
				}
			}
		}
		entries, err := h.Entries(list)
		if err != nil {
			return err
		}
		got := map[netip.Prefix]bool{}
		for _, e := range entries {
			got[e.Prefix] = true
		}
		if !maps.Equal(got, want) {
			h.found = append(h.found, fmt.Sprintf("%s list: the maps hold %v, the policy says %v", list, got, want))
		}
	}
	return nil
}
