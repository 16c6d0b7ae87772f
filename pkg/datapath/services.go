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

// LimitState is a limit with what was over it: refused, or only observed.
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
	base := slotOfGeneration(generation) * uint32(limiterAbiMAX_SERVICES)
	var out []ServiceState
	place := uint32(0)
	for n, s := range p.Services {
		state := ServiceState{Name: s.Name, Listen: s.Listen}
		id := i.tables.Services[base+uint32(n)].Id
		if state.Admitted, err = sumCounter(i.maps.ServiceCounters, id); err != nil {
			return nil, err
		}
		if state.Limits, err = i.limitStates(s.Limits, limits, &place); err != nil {
			return nil, err
		}
		out = append(out, state)
	}
	if len(p.Global.Limits) > 0 {
		state := ServiceState{}
		if state.Limits, err = i.limitStates(p.Global.Limits, limits, &place); err != nil {
			return nil, err
		}
		out = append(out, state)
	}
	return out, nil
}

func (i *Instance) limitStates(of []policy.Limit, limits map[uint32]limiterLimit, place *uint32) ([]LimitState, error) {
	var out []LimitState
	for _, l := range of {
		over, err := sumCounter(i.maps.LimitCounters, limits[*place].Id)
		if err != nil {
			return nil, err
		}
		out = append(out, LimitState{l, over})
		*place++
	}
	return out, nil
}

func sumCounter(m *ebpf.Map, id uint32) (Counter, error) {
	var perCPU []limiterCounter
	if err := m.Lookup(id, &perCPU); err != nil {
		return Counter{}, fmt.Errorf("read counter: %w", err)
	}
	var sum Counter
	for _, c := range perCPU {
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
	}
	return sum, nil
}
