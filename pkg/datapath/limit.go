// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// SetLimit puts a limit of new connections per source in force for DefaultService, or takes it away (nil).
// The rest of the policy stays.
func (i *Instance) SetLimit(l *policy.NewLimit) error {
	p, err := i.PolicyInForce()
	if err != nil {
		return err
	}
	next, err := policy.WithLimit(p, DefaultService, limitChange(l))
	if err != nil {
		return err
	}
	return i.Apply(ApplyOptions{Policy: next, By: originOperator})
}

func limitChange(l *policy.NewLimit) policy.LimitChange {
	if l == nil {
		return policy.LimitChange{NewOff: true}
	}
	return policy.LimitChange{New: &l.Rate, Burst: &l.Burst}
}

// Policy says what is in force.
func (i *Instance) Policy() (Policy, error) {
	now := monotonicNow()
	l := i.live()
	kept, ok, err := i.text(l.inForce(now))
	if err != nil {
		return Policy{}, err
	}
	if !ok {
		return Policy{}, errDamaged(fmt.Sprintf("policy of generation %d", l.inForce(now)))
	}
	out := Policy{Generation: kept.Generation, Mode: string(kept.Policy.Mode), Policy: kept.Policy}
	if l.pending(now) {
		out.Pending = &Pending{By: kept.By, Left: l.left(now), Fallback: l.fallback}
	}
	tallies, err := i.ConnTallies()
	if err != nil {
		return Policy{}, err
	}
	out.Uncounted = tallies.Uncounted
	bans, err := i.BanTally()
	if err != nil {
		return Policy{}, err
	}
	out.Unbanned = bans.Unfit
	if i.featuresNeeded()&handshakeFeatures != 0 {
		out.ConnTrouble = i.connTrouble()
	}
	if out.Unanswered, err = i.unanswered(); err != nil {
		return Policy{}, err
	}
	out.Tables, err = i.tablesOf(kept)
	return out, err
}

// Generation is that of the policy in force.
func (i *Instance) Generation() uint16 { return i.live().inForce(monotonicNow()) }

// tablesOf describes the regions of the meters that a policy's limits use.
func (i *Instance) tablesOf(kept Applied) ([]Table, error) {
	limits, err := i.limitsInForce(kept.Generation)
	if err != nil {
		return nil, err
	}
	names := limitNames(kept.Policy)
	at := map[region]int{}
	var out []Table
	for _, place := range sortedPlaces(limits) {
		l := limits[place]
		if !l.metered() || int(place) >= len(names) {
			continue
		}
		n, ok := at[l.region()]
		if !ok {
			n = len(out)
			at[l.region()] = n
			out = append(out, tableOf(l))
		}
		one := tableOf(l)
		out[n].Limits = append(out[n].Limits, names[place])
		out[n].Singles, out[n].Bursts = min(out[n].Singles, one.Singles), min(out[n].Bursts, one.Bursts)
	}
	// Limits of one region share it.
	for n := range out {
		out[n].Singles /= uint64(len(out[n].Limits))
		out[n].Bursts /= uint64(len(out[n].Limits))
	}
	return out, nil
}

func sortedPlaces(limits map[uint32]limiterLimit) []uint32 {
	places := make([]uint32, 0, len(limits))
	for place := range limits {
		places = append(places, place)
	}
	slices.Sort(places)
	return places
}

// limitNames are the names of a policy's limits in the order of their places.
func limitNames(p *policy.Policy) []string {
	var out []string
	for _, s := range p.Services {
		for n := range s.Limits {
			out = append(out, fmt.Sprintf("%s limit %d", s.Name, n+1))
		}
	}
	for n := range p.Global.Limits {
		out = append(out, fmt.Sprintf("global limit %d", n+1))
	}
	return out
}

// tableOf: a slot is free for a newcomer when what it holds has drained, after T for one connection
// and B*T for a burst, so a table holds slots/T and slots/(B*T) sources a second on average. Buckets
// fill unevenly: what is told is the share of that at which arrivals at random met no full bucket, 200,000
// of them (TestMeterHoldsWhatIsPrinted). With room for several, a slot bears several newcomers.
func tableOf(l limiterLimit) Table {
	slots := (uint64(l.BucketMask) + 1) * uint64(limiterAbiMETER_WAYS)
	perSecond := func(units uint64) uint64 {
		high, low := bits.Mul64(slots, uint64(time.Second))
		held := max(units<<l.UnitShift, high+1)
		perSecond, _ := bits.Div64(high, low, held)
		return perSecond
	}
	cost := min(l.Cost*max(1, amountOf(l))>>l.CostShift, l.Capacity)
	t := Table{Bytes: slots * 8, Singles: perSecond(cost), Bursts: perSecond(l.Capacity) / 16}
	switch burst := l.Capacity / max(cost, 1); {
	case burst == 1:
		t.Singles = t.Bursts
	case burst < 4:
		t.Singles /= 4
	case burst < 16:
		t.Singles /= 2
	default:
		t.Singles = t.Singles / 4 * 3
	}
	return t
}

// amountOf is what one typical packet charges.
func amountOf(l limiterLimit) uint64 {
	if l.Kind == uint8(limiterLimitKindLIMIT_BYTES_IN) || bytesOut(&l) {
		return policy.FullPacket
	}
	return 1
}
