// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/synward/synward/pkg/policy"
)

// limit compares a limit with what the data path counts by.
func (h *holding) limit(what string, at uint32, l policy.Limit) {
	held := h.tables.Limits[h.slot*uint32(limiterAbiMAX_LIMITS)+at]
	kind := map[policy.Kind]limiterLimitKind{
		policy.KindNew: limiterLimitKindLIMIT_NEW, policy.KindPackets: limiterLimitKindLIMIT_PACKETS,
		policy.KindBytesIn: limiterLimitKindLIMIT_BYTES_IN,
	}[l.Kind]
	per := map[policy.Per]limiterLimitPer{
		policy.PerSource: limiterLimitPerPER_SOURCE, policy.PerDestination: limiterLimitPerPER_DESTINATION,
		policy.PerSourceDestination: limiterLimitPerPER_SOURCE_DESTINATION, policy.PerService: limiterLimitPerPER_SERVICE,
	}[l.Per]
	h.same(what+" kind", limiterLimitKind(held.Kind), kind)
	h.same(what+" per", limiterLimitPer(held.Per), per)
	h.same(what+" prefix", lengthsOf(held.Mask4, held.Mask6), l.Prefix)
	h.same(what+" count_rejected", held.Flags&uint32(limiterLimitFlagLIMIT_COUNT_REJECTED) != 0, l.CountRejected)
	h.members(what+" from", held.From, l.From)
	h.members(what+" except", held.Except, l.Except)
	h.verdict(what, held, l)
	h.amounts(what, held, l)
}

// verdict compares what is done with what is over the limit.
func (h *holding) verdict(what string, held limiterLimit, l policy.Limit) {
	observes := l.Over == policy.OverObserve
	h.same(what+" goes on to the next limit", held.Flags&uint32(limiterLimitFlagLIMIT_OBSERVES) != 0, observes)
	challenges := l.Over == policy.OverChallenge
	byProof := challenges && (l.Per == policy.PerSource || l.Per == policy.PerSourceDestination)
	h.same(what+" refuses", held.Over&uint32(limiterVerdictVERDICT_REFUSED) != 0, !observes && !challenges)
	h.same(what+" challenges", held.Over&uint32(limiterVerdictVERDICT_CHALLENGED) != 0, challenges)
	h.same(what+" asks for proof", held.Over&uint32(limiterVerdictVERDICT_PROOF) != 0, byProof)
	h.same(what+" has a second meter", held.Proven != 0, byProof)
	probes := h.p.Mode != policy.Observe && l.Ban != nil && l.Kind == policy.KindNew && (l.Over == policy.OverDrop || l.Over == policy.OverReset)
	h.same(what+" has a meter of attempts", held.Probed != 0, probes)
	h.same(what+" observes", held.Over&uint32(limiterVerdictVERDICT_OBSERVED) != 0, observes)
	action := map[policy.Over]limiterAction{
		policy.OverDrop: limiterActionACTION_DROP, policy.OverReset: limiterActionACTION_RESET,
		policy.OverObserve: limiterActionACTION_OBSERVE, policy.OverChallenge: limiterActionACTION_CHALLENGE,
	}[l.Over]
	if h.p.Mode == policy.Observe {
		action = limiterActionACTION_OBSERVE
	}
	h.same(what+" over", limiterAction(held.Over>>uint32(limiterVerdictVERDICT_ACTION_SHIFT)&7), action)
	h.same(what+" reason", "over_"+string(l.Kind), reasonNames[limiterReason(held.Over&0xff)])
	h.same(what+" counts as", held.Over>>uint32(limiterVerdictVERDICT_LIMIT_SHIFT), held.Id+1)
}

// amounts compares rate and burst. What one costs may be rounded up, by 1.3 % at most; never down.
func (h *holding) amounts(what string, held limiterLimit, l policy.Limit) {
	refill := l.Refill()
	want := float64(refill.Period) / float64(refill.Count)
	got := math.Ldexp(float64(held.Cost), int(held.UnitShift)-int(held.CostShift))
	if !(got >= want*(1-1e-12) && got <= want*1.013) {
		h.same(what+" nanoseconds each", got, want)
	}
	high, low := bits.Mul64(held.Cost, l.Burst)
	h.same(what+" capacity", held.Capacity, high<<(64-held.CostShift)|low>>held.CostShift)
}

// lengthsOf turns masks, which lie in network byte order, back into prefix lengths; -1 is no prefix.
func lengthsOf(mask4 uint32, mask6 [4]uint32) policy.PrefixLengths {
	return policy.PrefixLengths{IPv4: lengthOf(mask4), IPv6: lengthOf(mask6[:]...)}
}

func lengthOf(words ...uint32) (length int) {
	ended := false
	for _, w := range words {
		b := binary.NativeEndian.AppendUint32(nil, w)
		ones := bits.LeadingZeros32(^binary.BigEndian.Uint32(b))
		if ones != bits.OnesCount32(w) || ended && ones > 0 {
			return -1
		}
		length += ones
		ended = ones < 32
	}
	return length
}
