// SPDX-License-Identifier: Apache-2.0

package datapath

import "fmt"

// reasonNames are the names of the reasons table, by the number that the data path counts under.
var reasonNames = map[limiterReason]string{
	limiterReasonREASON_NOT_IP:          "not_ip",
	limiterReasonREASON_UNPARSED:        "unparsed",
	limiterReasonREASON_NO_SERVICE:      "no_service",
	limiterReasonREASON_ESTABLISHED:     "established",
	limiterReasonREASON_ALLOWED:         "allowed",
	limiterReasonREASON_UNDER_LIMIT:     "under_limit",
	limiterReasonREASON_BLOCKED:         "blocked",
	limiterReasonREASON_OVER_NEW:        "over_new",
	limiterReasonREASON_OVER_PACKETS:    "over_packets",
	limiterReasonREASON_OVER_BYTES_IN:   "over_bytes_in",
	limiterReasonREASON_TABLE_FULL:      "table_full",
	limiterReasonREASON_MALFORMED:       "malformed",
	limiterReasonREASON_FRAGMENT:        "fragment",
	limiterReasonREASON_CONTENDED:       "contended",
	limiterReasonREASON_SELF_TEST:       "self_test",
	limiterReasonREASON_OVER_CONCURRENT: "over_concurrent",
	limiterReasonREASON_OVER_BYTES_OUT:  "over_bytes_out",
	limiterReasonREASON_PROVEN:          "proven",
	limiterReasonREASON_EXEMPT:          "exempt",
}

var actionNames = map[limiterAction]string{
	limiterActionACTION_PASS:      "pass",
	limiterActionACTION_DROP:      "drop",
	limiterActionACTION_RESET:     "reset",
	limiterActionACTION_OBSERVE:   "observe",
	limiterActionACTION_CHALLENGE: "challenge",
	limiterActionACTION_PROBE:     "probe",
}

// countersPerInterface is how many ends a packet has: reasons times actions.
const countersPerInterface = uint32(limiterReasonREASON_COUNT) * uint32(limiterActionACTION_COUNT)

func endIndex(reason limiterReason, action limiterAction) uint32 {
	return uint32(reason)*uint32(limiterActionACTION_COUNT) + uint32(action)
}

// endCounts are one interface's counters by endIndex, summed over the CPUs.
type endCounts [countersPerInterface]Counter

func (i *Instance) ends(slot uint32) (*endCounts, error) {
	var perCPU []limiterCounts
	if err := i.maps.Counters.Lookup(slot, &perCPU); err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	var sum endCounts
	for _, c := range perCPU {
		for n := range sum {
			sum[n].Packets += c.ByEnd[n].Packets
			sum[n].Bytes += c.ByEnd[n].Bytes
		}
	}
	return &sum, nil
}

func (e *endCounts) of(reason limiterReason, action limiterAction) Counter {
	return e[endIndex(reason, action)]
}

// reason is what was counted under a reason, all actions.
func (e *endCounts) reason(reason limiterReason) (packets uint64) {
	for action := range limiterActionACTION_COUNT {
		packets += e.of(reason, action).Packets
	}
	return packets
}

// Totals sums the counters over CPUs and interfaces, also those that were detached meanwhile: every
// reason in a fixed order, zeros included.
func (i *Instance) Totals() ([]Total, error) {
	var sum endCounts
	for slot := range uint32(limiterAbiMAX_INTERFACES) {
		one, err := i.ends(slot)
		if err != nil {
			return nil, err
		}
		for n := range sum {
			sum[n].Packets += one[n].Packets
			sum[n].Bytes += one[n].Bytes
		}
	}
	var out []Total
	for reason := limiterReasonREASON_NONE + 1; reason < limiterReasonREASON_COUNT; reason++ {
		total := Total{Reason: reasonNames[reason], Actions: map[string]uint64{}}
		for action := range limiterActionACTION_COUNT {
			c := sum.of(reason, action)
			total.Packets += c.Packets
			total.Bytes += c.Bytes
			total.Actions[actionNames[action]] += c.Packets
		}
		out = append(out, total)
	}
	return out, nil
}

// judged is how many packets of the wire a slot has judged.
func (i *Instance) judged(slot uint32) (uint64, error) {
	all, err := i.ends(slot)
	if err != nil {
		return 0, err
	}
	var sum uint64
	for reason := limiterReasonREASON_NONE + 1; reason < limiterReasonREASON_COUNT; reason++ {
		if reason != limiterReasonREASON_SELF_TEST {
			sum += all.reason(reason)
		}
	}
	return sum, nil
}
