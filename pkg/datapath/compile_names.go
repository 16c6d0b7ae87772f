// SPDX-License-Identifier: Apache-2.0

package datapath

import "github.com/synward/synward/pkg/policy"

// The words of a policy file as the data path knows them.
var (
	kinds = map[policy.Kind]limiterLimitKind{
		policy.KindNew:        limiterLimitKindLIMIT_NEW,
		policy.KindPackets:    limiterLimitKindLIMIT_PACKETS,
		policy.KindBytesIn:    limiterLimitKindLIMIT_BYTES_IN,
		policy.KindBytesOut:   limiterLimitKindLIMIT_BYTES_OUT,
		policy.KindConcurrent: limiterLimitKindLIMIT_CONCURRENT,
	}
	pers = map[policy.Per]limiterLimitPer{
		policy.PerSource:            limiterLimitPerPER_SOURCE,
		policy.PerDestination:       limiterLimitPerPER_DESTINATION,
		policy.PerSourceDestination: limiterLimitPerPER_SOURCE_DESTINATION,
		policy.PerService:           limiterLimitPerPER_SERVICE,
	}
	overs = map[policy.Over]limiterAction{
		policy.OverDrop:      limiterActionACTION_DROP,
		policy.OverReset:     limiterActionACTION_RESET,
		policy.OverObserve:   limiterActionACTION_OBSERVE,
		policy.OverChallenge: limiterActionACTION_CHALLENGE,
	}
	overReasons = map[policy.Kind]limiterReason{
		policy.KindNew:        limiterReasonREASON_OVER_NEW,
		policy.KindPackets:    limiterReasonREASON_OVER_PACKETS,
		policy.KindBytesIn:    limiterReasonREASON_OVER_BYTES_IN,
		policy.KindBytesOut:   limiterReasonREASON_OVER_BYTES_OUT,
		policy.KindConcurrent: limiterReasonREASON_OVER_CONCURRENT,
	}
)
