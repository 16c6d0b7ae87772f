// SPDX-License-Identifier: Apache-2.0

package datapath

import "fmt"

// reasonNames are the names of the reasons table, by the number that the data path counts under.
var reasonNames = map[limiterReason]string{
	limiterReasonREASON_NOT_IP:      "not_ip",
	limiterReasonREASON_UNPARSED:    "unparsed",
	limiterReasonREASON_NO_SERVICE:  "no_service",
	limiterReasonREASON_ESTABLISHED: "established",
	limiterReasonREASON_ALLOWED:     "allowed",
	limiterReasonREASON_UNDER_LIMIT: "under_limit",
	limiterReasonREASON_BLOCKED:     "blocked",
	limiterReasonREASON_OVER_NEW:    "over_new",
	limiterReasonREASON_TABLE_FULL:  "table_full",
	limiterReasonREASON_MALFORMED:   "malformed",
	limiterReasonREASON_FRAGMENT:    "fragment",
	limiterReasonREASON_CONTENDED:   "contended",
	limiterReasonREASON_SELF_TEST:   "self_test",
}

var actionNames = map[limiterAction]string{
	limiterActionACTION_PASS:    "pass",
	limiterActionACTION_DROP:    "drop",
	limiterActionACTION_OBSERVE: "observe",
}

const countersPerInterface = uint32(limiterReasonREASON_COUNT) * uint32(limiterActionACTION_COUNT)

func counterIndex(slot uint32, reason limiterReason, action limiterAction) uint32 {
	return slot*countersPerInterface + uint32(reason)*uint32(limiterActionACTION_COUNT) + uint32(action)
}

// counter sums one counter over the CPUs.
func (i *Instance) counter(slot uint32, reason limiterReason, action limiterAction) (Counter, error) {
	var perCPU []limiterCounter
	if err := i.maps.Counters.Lookup(counterIndex(slot, reason, action), &perCPU); err != nil {
		return Counter{}, fmt.Errorf("read counters: %w", err)
	}
	var sum Counter
	for _, c := range perCPU {
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
	}
	return sum, nil
}

// Totals sums the counters over CPUs and interfaces, also those that were detached meanwhile: every
// reason in a fixed order, zeros included.
func (i *Instance) Totals() ([]Total, error) {
	var out []Total
	for reason := limiterReasonREASON_NONE + 1; reason < limiterReasonREASON_COUNT; reason++ {
		total := Total{Reason: reasonNames[reason], Actions: map[string]uint64{}}
		for action := range limiterActionACTION_COUNT {
			for slot := range uint32(limiterAbiMAX_INTERFACES) {
				c, err := i.counter(slot, reason, action)
				if err != nil {
					return nil, err
				}
				total.Packets += c.Packets
				total.Bytes += c.Bytes
				total.Actions[actionNames[action]] += c.Packets
			}
		}
		out = append(out, total)
	}
	return out, nil
}

// reasonPackets is what one interface slot counted under a reason, all actions.
func (i *Instance) reasonPackets(slot uint32, reason limiterReason) (uint64, error) {
	var sum uint64
	for action := range limiterActionACTION_COUNT {
		c, err := i.counter(slot, reason, action)
		if err != nil {
			return 0, err
		}
		sum += c.Packets
	}
	return sum, nil
}

// judged is how many packets of the wire a slot has judged.
func (i *Instance) judged(slot uint32) (uint64, error) {
	var sum uint64
	for reason := limiterReasonREASON_NONE + 1; reason < limiterReasonREASON_COUNT; reason++ {
		if reason == limiterReasonREASON_SELF_TEST {
			continue
		}
		n, err := i.reasonPackets(slot, reason)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
