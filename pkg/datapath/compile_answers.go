// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// answer is one of the limits of answers, the same for every policy that has any, at the end of its limits.
type answer struct {
	at      uint32
	feature limiterFeature // of the policies that have it: any of these
	name    string
	per     policy.Per
	count   uint64 // a second
	burst   uint64
}

// Where they lie.
const (
	answerTotalAt     = uint32(limiterAbiMAX_LIMITS) - 1
	answerSourceAt    = uint32(limiterAbiMAX_LIMITS) - 2
	challengeTotalAt  = uint32(limiterAbiMAX_LIMITS) - 3
	challengeSourceAt = uint32(limiterAbiMAX_LIMITS) - 4
	passedOnAt        = uint32(limiterAbiMAX_LIMITS) - 5
	guessesAt         = uint32(limiterAbiMAX_LIMITS) - 6
	probeSourceAt     = uint32(limiterAbiMAX_LIMITS) - 7
	probeTotalAt      = uint32(limiterAbiMAX_LIMITS) - 8
	refusedSourceAt   = uint32(limiterAbiMAX_LIMITS) - 9
	refusedTotalAt    = uint32(limiterAbiMAX_LIMITS) - 10
	firstAnswerAt     = refusedTotalAt
)

// A valid cookie is guessed once in 2^29 tries, so with 20 a second one in ten months, and it strikes only where its
// source is at its limit. A client that sends data behind proof that is refused spends some too.
const (
	guessesPerSecond = 20
	guessesAtOnce    = 200
)

// One source is probed no more often than it is answered by RST, for that is how a strike ends.
const (
	probesPerSecond = 10
	probesAtOnce    = 20
)

// answers: RSTs to one source, and in total; challenges, which must reach the few real clients of a flood, and may
// all go to one address that is forged; SYNs that pass although they are over a limit, for a listener takes cookies
// only while it sees some; no answers, wrong cookies of a source before its strikes do not count; probes, to one source
// and in total; and RSTs to proof that is refused, which no SYN in its source's name may use up.
func answers() []answer {
	const reset, challenge = limiterFeatureFEATURE_RESET, limiterFeatureFEATURE_CHALLENGE
	const ban, probe = limiterFeatureFEATURE_BAN, limiterFeatureFEATURE_PROBE
	const proof = limiterFeatureFEATURE_PROVEN | probe
	return []answer{
		{answerSourceAt, reset, "answers source", policy.PerSource, 10, 20},
		{answerTotalAt, reset, "answers service", policy.PerService, 10_000, 10_000},
		{challengeSourceAt, challenge, "challenges source", policy.PerSource, 1_000_000, 1_000_000},
		{challengeTotalAt, challenge, "challenges service", policy.PerService, 2_000_000, 2_000_000},
		{passedOnAt, challenge, "passed on", policy.PerService, 100, 100},
		{guessesAt, ban, "guesses source", policy.PerSource, guessesPerSecond, guessesAtOnce},
		{probeSourceAt, probe, "probes source", policy.PerSource, probesPerSecond, probesAtOnce},
		{probeTotalAt, probe, "probes service", policy.PerService, 10_000, 10_000},
		{refusedSourceAt, proof, "refused source", policy.PerSource, 10, 20},
		{refusedTotalAt, proof, "refused service", policy.PerService, 10_000, 10_000},
	}
}

// addAnswers adds the limits of answers, if anything is answered.
func (c *compiled) addAnswers() error {
	needed := limiterFeature(0)
	for _, l := range everyLimit(c.source) {
		switch l.Over {
		case policy.OverReset:
			needed |= limiterFeatureFEATURE_RESET
		case policy.OverChallenge:
			needed |= limiterFeatureFEATURE_CHALLENGE
		}
		if proves(l) {
			needed |= limiterFeatureFEATURE_RESET | limiterFeatureFEATURE_PROVEN
		}
		if c.probes(l) {
			needed |= limiterFeatureFEATURE_RESET | limiterFeatureFEATURE_PROBE
		}
	}
	if c.bansByProof() {
		needed |= limiterFeatureFEATURE_BAN
	}
	for _, a := range answers() {
		if needed&a.feature == 0 {
			continue
		}
		one, err := compileLimit(policy.Limit{
			Kind: policy.KindNew, Per: a.per, Prefix: policy.PrefixLengths{IPv4: 32, IPv6: 64}, Over: policy.OverDrop,
			Rate: policy.Rate{Count: a.count, Period: time.Second}, Burst: a.burst,
		})
		if err != nil {
			return fmt.Errorf("limit of answers: %w", err)
		}
		c.limits[a.at], c.buckets[a.at] = &one.limiterLimit, one.buckets
		c.identity[a.at] = a.name
	}
	return nil
}

// everyLimit are the limits of all services and the global ones, by place.
func everyLimit(p *policy.Policy) []policy.Limit {
	var all []policy.Limit
	for _, s := range p.Services {
		all = append(all, s.Limits...)
	}
	return append(all, p.Global.Limits...)
}

// proves: a limit with a second meter, which only proof of the source charges.
func proves(l policy.Limit) bool {
	return l.Over == policy.OverChallenge && (l.Per == policy.PerSource || l.Per == policy.PerSourceDestination)
}

func (c *compiled) proves() bool { return slices.ContainsFunc(everyLimit(c.source), proves) }

// addProven adds the second meters behind all limits. They have regions of their own: no flood of SYNs may push out
// of them whom only proof can bring in. What is over one is refused, and counts as over its limit. Refused is also
// the ACK of who holds the answer already, so it is told.
func (c *compiled) addProven(p *policy.Policy) error {
	for place, l := range everyLimit(p) {
		if !proves(l) && !c.probes(l) {
			continue
		}
		first, at := c.limits[uint32(place)], uint32(len(c.limits))
		if at >= firstAnswerAt {
			return fail(ErrInvalid, "too many limits per source that ban or have `over: challenge`; each takes the room of two")
		}
		one, err := c.compileProven(l, uint32(place))
		if err != nil {
			return err
		}
		if c.probes(l) {
			first.Probed = at
		} else {
			first.Proven = at
		}
		c.limits[at], c.buckets[at] = &one.limiterLimit, one.buckets
		c.identity[at] = "proven " + c.identity[uint32(place)]
	}
	return nil
}

func (c *compiled) compileProven(l policy.Limit, place uint32) (compiledLimit, error) {
	first := c.limits[place]
	l.Over, l.CountRejected = policy.OverReset, false
	one, err := compileLimit(l)
	if err != nil {
		return compiledLimit{}, err
	}
	one.From, one.Except = first.From, first.Except
	one.Flags |= uint32(limiterLimitFlagLIMIT_PROVEN)
	if _, bans := c.bans[place]; bans {
		one.Over |= uint32(limiterVerdictVERDICT_STRIKE)
	}
	return one, nil
}
