// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"
)

// modelStale is how far ahead a TAT of the model may lie.
const modelStale = 20

// limits of keys 1, 2 and 3: the same for the first two, another for the third.
func chargeOf(key, now int8) modelCharge {
	c := modelCharge{key: key, now: now, cost: 3, capacity: 6}
	if key == 3 {
		c.cost, c.capacity = 4, 4
	}
	return c
}

// tables are what a bucket may hold before: empty and old slots, slots whose debt has just drained or
// not yet, and the keys themselves. Keys of nobody are negative.
func tables(ways int) [][modelMaxWays]modelSlot {
	tats := []int8{0, modelNow - 1, modelNow, modelNow + 1, modelNow + 2}
	out := [][modelMaxWays]modelSlot{{}}
	for way := range ways {
		var longer [][modelMaxWays]modelSlot
		for _, table := range out {
			for _, tat := range tats {
				table[way] = modelSlot{tag: -1 - int8(way), tat: tat}
				longer = append(longer, table)
			}
		}
		out = longer
	}
	for _, table := range out[:len(tats)] {
		table[0].tag = 1
		out = append(out, table)
	}
	return out
}

// works are what CPUs may have to do: each count charges of keys, on clocks at most one tick apart
// that never go back on one CPU. Of two CPUs that only swap their work, one order is enough.
func works(cpus, count int, keys []int8) [][][]modelCharge {
	one := [][]modelCharge{nil}
	for range count {
		var longer [][]modelCharge
		for _, w := range one {
			for _, key := range keys {
				for _, now := range []int8{modelNow, modelNow + 1} {
					if len(w) == 0 || now >= w[len(w)-1].now {
						longer = append(longer, append(w[:len(w):len(w)], chargeOf(key, now)))
					}
				}
			}
		}
		one = longer
	}
	var out [][][]modelCharge
	var choose func(from int, chosen [][]modelCharge)
	choose = func(from int, chosen [][]modelCharge) {
		if len(chosen) == cpus {
			out = append(out, chosen)
			return
		}
		for i := from; i < len(one); i++ {
			choose(i, append(chosen[:len(chosen):len(chosen)], one[i]))
		}
	}
	choose(0, nil)
	return out
}

// exploreAll looks for a fault in all that CPUs may do on all tables.
func exploreAll(ways, cpus, count int, keys []int8, rules modelRules) (fault string, scenarios, states int) {
	for _, table := range tables(ways) {
		for _, work := range works(cpus, count, keys) {
			s := scenario{ways: ways, slots: table, work: work, stale: modelStale, rules: rules}
			fault, seen := s.explore()
			scenarios++
			states += seen
			if fault != "" {
				return fmt.Sprintf("%s; on %v, work %v", fault, table[:ways], work), scenarios, states
			}
		}
	}
	return "", scenarios, states
}

// In no order of their steps do CPUs on one bucket admit a key above its limit, put it into two slots
// or lose what a slot owes: clocks a tick apart, keys the same and different, limits too.
func TestModelNoOrderOfStepsBreaksTheMeters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ways, cpus, count int
		keys              []int8
	}{
		{1, 2, 2, []int8{1, 2, 3}}, {2, 2, 2, []int8{1, 3}}, {2, 3, 1, []int8{1, 3}}, {3, 2, 1, []int8{1, 2, 3}}, {1, 3, 2, []int8{1}},
	} {
		fault, scenarios, states := exploreAll(c.ways, c.cpus, c.count, c.keys, modelRules{})
		t.Logf("%d ways, %d CPUs, %d charges each: %d scenarios, %d states", c.ways, c.cpus, c.count, scenarios, states)
		if fault != "" {
			t.Errorf("%d ways, %d CPUs, %d charges each: %s", c.ways, c.cpus, c.count, fault)
		}
	}
}

// The model finds the faults that it is there for.
func TestModelFindsFaults(t *testing.T) {
	for name, rules := range map[string]modelRules{
		"victim by clamped level": {clamped: true},
		"no second look":          {noSecondLook: true},
		"no compare-and-swap":     {noCAS: true},
	} {
		fault, _, _ := exploreAll(2, 2, 1, []int8{1}, rules)
		if fault == "" {
			t.Errorf("%s: no fault found", name)
		}
		t.Logf("%s: %s", name, fault)
	}
}

// Why idle slots must be swept before their TAT wraps: at the moment when one turns from past to far
// ahead, two CPUs a tick apart disagree on which slot is the oldest, and both insert the same key.
func TestModelShowsWhyIdleSlotsAreSwept(t *testing.T) {
	wrapped := int8(modelNow + modelStale + 1) // past for the clock behind, ahead for the other
	s := scenario{
		ways: 2, stale: modelStale,
		slots: [modelMaxWays]modelSlot{{-1, wrapped}, {-2, modelNow - 2}},
		work:  [][]modelCharge{{chargeOf(1, modelNow)}, {chargeOf(1, modelNow+1)}},
	}
	fault, _ := s.explore()
	if fault == "" {
		t.Error("no fault found: if slots need no sweep any more, say so in bpf/README.md and drop this test")
	}
	t.Log(fault)
}
