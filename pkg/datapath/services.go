// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/synward/synward/pkg/policy"
)

// ServiceState is a service of the policy in force, with what was counted of it. Name is empty for the
// limits across all services.
type ServiceState struct {
	Name   string
	Listen []policy.Listen
	// Admitted is new connections, and packets of UDP.
	Admitted Counter
	Limits   []LimitState
}

// LimitState is a limit with what met it and was refused, observed, or let through by a full table.
type LimitState struct {
	policy.Limit
	Over Counter
}

// Services are the services of the policy in force in its order, then the global limits if there are any.
// Counts go on while a service keeps its name, and a limit what it counts of whom.
func (i *Instance) Services() ([]ServiceState, error) {
	generation := i.live().inForce(monotonicNow())
	p, err := i.PolicyInForce()
	if err != nil {
		return nil, err
	}
	limits, err := i.limitsInForce(generation)
	if err != nil {
		return nil, err
	}
	counts, err := i.readTallies()
	if err != nil {
		return nil, err
	}
	base := slotOfGeneration(generation) * uint32(limiterAbiMAX_SERVICES)
	var out []ServiceState
	place := uint32(0)
	add := func(state ServiceState, of []policy.Limit) error {
		for _, l := range of {
			over, err := counts.limit(limits[place].Id)
			if err != nil {
				return err
			}
			state.Limits = append(state.Limits, LimitState{l, over})
			place++
		}
		out = append(out, state)
		return nil
	}
	for n, s := range p.Services {
		admitted, err := counts.service(i.tables.Services[base+uint32(n)].Id)
		if err != nil {
			return nil, err
		}
		if err := add(ServiceState{Name: s.Name, Listen: s.Listen, Admitted: admitted}, s.Limits); err != nil {
			return nil, err
		}
	}
	if len(p.Global.Limits) == 0 {
		return out, nil
	}
	return out, add(ServiceState{}, p.Global.Limits)
}

// tallies are the counters of services and limits by id, since the id was given.
type tallies struct {
	*Instance
	nearLimits, nearServices [limiterAbiNEAR_IDS]Counter
}

func (i *Instance) readTallies() (*tallies, error) {
	t := &tallies{Instance: i}
	for slot := range uint32(limiterAbiMAX_INTERFACES) {
		var perCPU []limiterCounts
		if err := i.maps.Counters.Lookup(slot, &perCPU); err != nil {
			return nil, fmt.Errorf("read counters: %w", err)
		}
		for _, c := range perCPU {
			for n := range t.nearLimits {
				t.nearLimits[n].add(Counter{c.NearLimits[n].Packets, c.NearLimits[n].Bytes})
				t.nearServices[n].add(Counter{c.NearServices[n].Packets, c.NearServices[n].Bytes})
			}
		}
	}
	return t, nil
}

func (c *Counter) add(more Counter) {
	c.Packets += more.Packets
	c.Bytes += more.Bytes
}

func (t *tallies) limit(id uint32) (Counter, error) {
	return since(t.rawLimit, t.maps.LimitBases, id)
}

func (t *tallies) service(id uint32) (Counter, error) {
	return since(t.rawService, t.maps.ServiceBases, id)
}

func (t *tallies) rawLimit(id uint32) (Counter, error) {
	// The gate counts all its refusals in the map.
	sum, err := sumCounter(t.maps.LimitCounters, id)
	if id < uint32(limiterAbiNEAR_IDS) {
		sum.add(t.nearLimits[id])
	}
	return sum, err
}

func (t *tallies) rawService(id uint32) (Counter, error) {
	if id < uint32(limiterAbiNEAR_IDS) {
		return t.nearServices[id], nil
	}
	return sumCounter(t.maps.ServiceCounters, id)
}

// rebase begins the counts of ids anew. No program counts under them, so nothing is lost.
func (t *tallies) rebase(services, limits []uint32) error {
	for _, id := range services {
		now, err := t.rawService(id)
		if err != nil {
			return err
		}
		if err := t.maps.ServiceBases.Put(id, limiterCounter{Packets: now.Packets, Bytes: now.Bytes}); err != nil {
			return fmt.Errorf("rebase service counter: %w", err)
		}
	}
	for _, id := range limits {
		now, err := t.rawLimit(id)
		if err != nil {
			return err
		}
		if err := t.maps.LimitBases.Put(id, limiterCounter{Packets: now.Packets, Bytes: now.Bytes}); err != nil {
			return fmt.Errorf("rebase limit counter: %w", err)
		}
	}
	return nil
}

func since(raw func(uint32) (Counter, error), bases *ebpf.Map, id uint32) (Counter, error) {
	now, err := raw(id)
	if err != nil {
		return now, err
	}
	var base limiterCounter
	if err := bases.Lookup(id, &base); err != nil {
		return now, fmt.Errorf("read counter: %w", err)
	}
	return Counter{now.Packets - min(now.Packets, base.Packets), now.Bytes - min(now.Bytes, base.Bytes)}, nil
}

func sumCounter(m *ebpf.Map, id uint32) (Counter, error) {
	var perCPU []limiterCounter
	if err := m.Lookup(id, &perCPU); err != nil {
		return Counter{}, fmt.Errorf("read counter: %w", err)
	}
	var sum Counter
	for _, c := range perCPU {
		sum.add(Counter{c.Packets, c.Bytes})
	}
	return sum, nil
}
