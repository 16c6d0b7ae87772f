// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// maxSetPrefixes is how many prefixes of sets one policy may have: half of the trie.
const maxSetPrefixes = 1 << 19

// compiled is a policy in the words of the data path: all that is written into one slot.
type compiled struct {
	source   *policy.Policy
	head     limiterPolicy
	services []limiterService
	names    []string // of the services
	limits   map[uint32]*limiterLimit
	identity map[uint32]string         // of the limits, by place: what they count of whom
	buckets  map[uint32]uint32         // that the limits ask for, by place
	bans     map[uint32]limiterBanTerm // of the limits that ban, by place
	ports    *limiterPortTable
	locals   map[localKey]uint64
	sets     map[netip.Prefix]uint64
	// fresh are regions that no policy in force reads; freshLimits and freshServices such ids.
	fresh         map[regionClass]region
	freshLimits   []uint32
	freshServices []uint32
	changed       map[uint32]bool // limits whose aggregate is another, by place
}

// localKey is a prefix of local addresses for a class of ports.
type localKey struct {
	class  uint16
	prefix netip.Prefix
}

// predecessor is what the policies in force hold that a new one may go on with.
type predecessor struct {
	services map[string]uint32         // ids by name
	limits   map[string][]limiterLimit // by identity
	taken    []region
	ids      *givenIDs // if they are settled already
}

// givenIDs are ids that a policy's services and limits have from another version: what is counted goes on
// under them.
type givenIDs struct {
	services map[string]uint32 // by name
	limits   map[uint32]uint32 // by place
}

// compile turns a policy into what the data path reads. Limits that stay the same keep their seed, id and
// region, so their levels and counts live on. ErrInvalid names what this version cannot do.
func compile(p *policy.Policy, before predecessor) (*compiled, error) {
	c := &compiled{
		source: p, limits: map[uint32]*limiterLimit{}, identity: map[uint32]string{}, buckets: map[uint32]uint32{},
		bans:   map[uint32]limiterBanTerm{},
		locals: map[localKey]uint64{}, sets: map[netip.Prefix]uint64{}, changed: map[uint32]bool{},
	}
	c.compileHead(p)
	members, err := newMemberBits(p)
	if err != nil {
		return nil, err
	}
	horizons := time.Duration(1<<63 - 1)
	add := func(l policy.Limit, service string) error {
		one, err := c.addLimit(l, service, members)
		if err != nil {
			return err
		}
		if l.Kind != policy.KindConcurrent {
			horizons = min(horizons, one.horizon)
		}
		if l.Strict {
			c.head.PreciseClock = 1 // a tick may be longer than what a strict limit leaves below COUNT
		}
		return nil
	}
	for n, s := range p.Services {
		if err := c.addService(p, n, members, add); err != nil {
			return nil, fmt.Errorf("service %s: %w", s.Name, err)
		}
	}
	c.head.GlobalFirst, c.head.GlobalCount = uint32(len(c.limits)), uint32(len(p.Global.Limits))
	for n, l := range p.Global.Limits {
		if err := add(l, ""); err != nil {
			return nil, fmt.Errorf("global limit %d: %w", n+1, err)
		}
	}
	if err := c.addProven(p); err != nil {
		return nil, err
	}
	if err := c.addAcked(p); err != nil {
		return nil, err
	}
	c.head.Limits = uint32(len(c.limits))
	if err := c.addAnswers(); err != nil {
		return nil, err
	}
	if horizons < preciseTicks*clockTick() {
		c.head.PreciseClock = 1
	}
	c.sets = members.trie()
	if len(c.sets) > maxSetPrefixes {
		return nil, fail(ErrInvalid, "from, except and allow of services name %d prefixes; at most %d, for two policies must have room", len(c.sets), maxSetPrefixes)
	}
	if err := c.compileListens(p); err != nil {
		return nil, err
	}
	c.findFeatures(p)
	c.head.Listed = uint32(len(c.locals) + len(c.sets) + len(c.allowed()) + len(c.blocked()) + len(c.bans))
	return c, c.place(before)
}

func (c *compiled) allowed() []netip.Prefix { return expand(c.source, c.source.Allow) }
func (c *compiled) blocked() []netip.Prefix { return expand(c.source, c.source.Block) }

func (c *compiled) compileHead(p *policy.Policy) {
	c.head = limiterPolicy{
		Mode: uint32(limiterModeMODE_ENFORCE), OnTableFull: uint32(limiterOnTableFullTABLE_FULL_PASS),
		Services: uint32(len(p.Services)),
	}
	if p.Mode == policy.Observe {
		c.head.Mode = uint32(limiterModeMODE_OBSERVE)
	}
	if p.OnTableFull == policy.TableFullDrop {
		c.head.OnTableFull = uint32(limiterOnTableFullTABLE_FULL_DROP)
	}
	if p.StrictParsing {
		c.head.StrictParsing = 1
	}
	c.head.Mask4, c.head.Mask6 = masks(p.Source)
}

// addService adds a service with its limits.
func (c *compiled) addService(p *policy.Policy, n int, members *memberBits, add func(policy.Limit, string) error) error {
	s := p.Services[n]
	out := limiterService{FirstLimit: uint32(len(c.limits)), LimitCount: uint32(len(s.Limits)), Allow: members.bit(s.Allow)}
	plain := len(p.Global.Limits) == 0 && len(s.Limits) <= 1
	sets := out.Allow != 0
	volume, sent, acked, drops, proven, probes, concurrent := false, false, false, true, false, false, 0
	for i, l := range append(slices.Clone(s.Limits), p.Global.Limits...) {
		if i < len(s.Limits) {
			if err := add(l, s.Name); err != nil {
				return fmt.Errorf("limit %d: %w", i+1, err)
			}
		}
		plain = plain && isPlain(l)
		sets = sets || !l.From.IsEmpty() || !l.Except.IsEmpty()
		volume = volume || l.Kind == policy.KindPackets || l.Kind == policy.KindBytesIn
		sent = sent || l.Kind == policy.KindBytesOut
		acked = acked || c.bansByAcked(l)
		proven = proven || proves(l)
		probes = probes || c.probes(l)
		drops = drops && l.Over == policy.OverDrop && l.Kind == policy.KindNew
		if l.Kind == policy.KindConcurrent {
			concurrent++
		}
		if l.CountRejected {
			out.Flags |= uint32(limiterServiceFlagSERVICE_COUNT_REJECTED)
		}
	}
	if concurrent > maxConcurrent {
		return fail(ErrInvalid, "%d limits of concurrent connections, global ones included; at most %d count one connection", concurrent, maxConcurrent)
	}
	for flag, on := range map[limiterServiceFlag]bool{
		limiterServiceFlagSERVICE_PLAIN: plain, limiterServiceFlagSERVICE_SETS: sets, limiterServiceFlagSERVICE_VOLUME: volume,
		limiterServiceFlagSERVICE_DROPS: drops, limiterServiceFlagSERVICE_BYTES_OUT: sent,
		limiterServiceFlagSERVICE_CONCURRENT: concurrent > 0, limiterServiceFlagSERVICE_PROVES: proven,
		limiterServiceFlagSERVICE_ACKED:  acked,
		limiterServiceFlagSERVICE_PROBES: probes,
	} {
		if on {
			out.Flags |= uint32(flag)
		}
	}
	c.services = append(c.services, out)
	c.names = append(c.names, s.Name)
	return nil
}

// isPlain: a limit that needs no look before its charge.
func isPlain(l policy.Limit) bool {
	return l.Kind == policy.KindNew && l.Per == policy.PerSource && !l.CountRejected && l.From.IsEmpty() && l.Except.IsEmpty() &&
		(l.Over == policy.OverDrop || l.Over == policy.OverReset)
}

func (c *compiled) addLimit(l policy.Limit, service string, members *memberBits) (compiledLimit, error) {
	if err := supported(l); err != nil {
		return compiledLimit{}, err
	}
	one, err := compileLimit(l)
	if err != nil {
		return compiledLimit{}, err
	}
	one.From, one.Except = members.bit(l.From), members.bit(l.Except)
	at := uint32(len(c.limits))
	c.limits[at], c.buckets[at] = &one.limiterLimit, one.buckets
	c.identity[at] = identify(l, service)
	if c.strikes(l) {
		c.bans[at] = compileBan(l)
	}
	if c.probes(l) {
		one.Over |= uint32(limiterVerdictVERDICT_STRIKE)
	}
	return one, nil
}

// supported refuses what the file may say and this data path does not do.
func supported(l policy.Limit) error {
	_, kind := kinds[l.Kind]
	_, over := overs[l.Over]
	switch {
	case !kind:
		return fail(ErrInvalid, "this version does not count %s yet; take the limit out", l.Kind)
	case !over:
		return fail(ErrInvalid, "this version does not know `over: %s` yet; use drop, reset, challenge or observe", l.Over)
	case l.Kind == policy.KindConcurrent && l.Per != policy.PerSource && l.Per != policy.PerService:
		return fail(ErrInvalid, "this version counts concurrent connections per source and per service, not per %s yet; take the limit out", l.Per)
	case l.Ban != nil:
		return banSupported(l)
	}
	return nil
}

// identify names a limit by what it counts of whom, so that it is found again in the next policy, whatever
// its rate has become there. Several may have one name.
func identify(l policy.Limit, service string) string {
	return fmt.Sprintf("%q %s %s %v %v %v", service, l.Kind, l.Per, l.Prefix, l.From, l.Except)
}

// findFeatures says what of the program the policy needs.
func (c *compiled) findFeatures(p *policy.Policy) {
	simple := len(p.Services) == 1 && slices.Equal(p.Services[0].Listen, []policy.Listen{{Proto: policy.TCP, First: 0, Last: 65535}})
	need := map[limiterFeature]bool{
		limiterFeatureFEATURE_PORTS: !simple,
		limiterFeatureFEATURE_LOCAL: len(c.locals) > 0,
		limiterFeatureFEATURE_SETS:  false,
	}
	for n, s := range p.Services {
		flags := c.services[n].Flags
		need[limiterFeatureFEATURE_CONCURRENT] = need[limiterFeatureFEATURE_CONCURRENT] || flags&uint32(limiterServiceFlagSERVICE_CONCURRENT) != 0
		need[limiterFeatureFEATURE_MANY] = need[limiterFeatureFEATURE_MANY] || flags&uint32(limiterServiceFlagSERVICE_PLAIN) == 0
		need[limiterFeatureFEATURE_SETS] = need[limiterFeatureFEATURE_SETS] || flags&uint32(limiterServiceFlagSERVICE_SETS) != 0
		need[limiterFeatureFEATURE_VOLUME] = need[limiterFeatureFEATURE_VOLUME] || flags&uint32(limiterServiceFlagSERVICE_VOLUME) != 0
		need[limiterFeatureFEATURE_BYTES_OUT] = need[limiterFeatureFEATURE_BYTES_OUT] || flags&uint32(limiterServiceFlagSERVICE_BYTES_OUT) != 0
		for _, l := range s.Listen {
			need[limiterFeatureFEATURE_UDP] = need[limiterFeatureFEATURE_UDP] || l.Proto != policy.TCP
			need[limiterFeatureFEATURE_QUIC] = need[limiterFeatureFEATURE_QUIC] || l.Proto == policy.QUIC
		}
	}
	_, need[limiterFeatureFEATURE_RESET] = c.limits[answerSourceAt]
	_, need[limiterFeatureFEATURE_CHALLENGE] = c.limits[challengeSourceAt]
	need[limiterFeatureFEATURE_PROVEN] = c.proves()
	need[limiterFeatureFEATURE_BAN] = c.bansByProof()
	need[limiterFeatureFEATURE_ACKED] = slices.ContainsFunc(everyLimit(p), c.bansByAcked)
	_, need[limiterFeatureFEATURE_PROBE] = c.limits[probeSourceAt]
	need[limiterFeatureFEATURE_EXEMPT] = slices.ContainsFunc(everyLimit(p), func(l policy.Limit) bool { return l.Exempt != "" })
	if p.OnTableFull == policy.TableFullChallenge && need[limiterFeatureFEATURE_CHALLENGE] {
		c.head.OnTableFull = uint32(limiterOnTableFullTABLE_FULL_CHALLENGE)
	}
	for feature, needed := range need {
		if needed {
			c.head.Features |= uint32(feature)
		}
	}
}
