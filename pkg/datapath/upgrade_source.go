// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/synward/synward/pkg/policy"
)

// source is what an upgrade finds in the maps of another version, and what it makes of it before anything is
// touched.
type source struct {
	*pinnedMaps
	own *layout
	// word is in force: settled, if a deadline was over.
	word live
	last uint64
	// feeds are those that hold.
	feeds limiterFeedWords
	// policies are those in force, the one that the other may fall back to first.
	policies []sourcePolicy
	kept     []sourceText
	all      []attachment
}

// sourcePolicy is a policy in force with what has to stay as it is.
type sourcePolicy struct {
	sourceText
	ids givenIDs
}

// sourceText is a policy as it is kept.
type sourceText struct {
	generation uint16
	packed     []byte
	by         string
	applied    uint64
	policy     *policy.Policy
}

// readSource reads all that decides, and refuses what cannot be carried over.
func readSource(p *pinnedMaps) (*source, error) {
	own, err := ownLayout()
	if err != nil {
		return nil, err
	}
	s := &source{pinnedMaps: p, own: own}
	for _, step := range []func() error{
		s.checkMeanings, s.checkSizes, s.checkMaps, s.readControl, s.readFeeds, s.readTexts, s.readIDs, s.readAttachments, s.checkHooks, s.checkCounters,
	} {
		if err := step(); err != nil {
			return nil, p.refuse(err)
		}
	}
	return s, nil
}

// checkMeanings wants names of values, as far as both versions have them, to stand for the same ones.
func (s *source) checkMeanings() error {
	for _, name := range []string{"scope", "list_id", "limit_kind", "limit_per", "interface_flag", "source_flag", "feed_state"} {
		own := s.own.enum(name)
		for value, n := range s.enum(name) {
			if m, ok := own[value]; ok && m != n {
				return fmt.Errorf("%s means %d there and %d here", value, n, m)
			}
		}
	}
	return nil
}

// checkSizes wants this version to have room where ids and slots are places.
func (s *source) checkSizes() error {
	for name, same := range map[string]bool{
		"POLICY_SLOTS": true, "NEAR_IDS": true, "MAX_INTERFACES": false, "SERVICE_IDS": false, "LIMIT_IDS": false,
		"MAX_FEEDS": false,
	} {
		if _, has := s.enum("abi")[name]; !has && name == "MAX_FEEDS" {
			continue // that version knows no feeds
		}
		theirs, err := s.number("abi", name)
		if err != nil {
			return err
		}
		own, err := s.own.number("abi", name)
		if err != nil {
			return err
		}
		if theirs > own || same && theirs != own {
			return fmt.Errorf("%s is %d there and %d here", name, theirs, own)
		}
	}
	return nil
}

// checkMaps refuses maps of which this version does not know what they are for, unless nothing is in them.
func (s *source) checkMaps() error {
	for name, m := range s.maps {
		if s.own.has(name) || s.rebuilt(name) {
			continue
		}
		empty, err := isEmpty(m)
		if err != nil {
			return err
		}
		if !empty {
			return fmt.Errorf("map %s holds what this version knows nothing of", name)
		}
	}
	return nil
}

// isEmpty: a map has no entry, an array nothing but zeros.
func isEmpty(m *ebpf.Map) (bool, error) {
	if m.Type() != ebpf.Array && m.Type() != ebpf.PerCPUArray {
		err := m.NextKey(nil, make([]byte, m.KeySize()))
		if err == nil || isMissing(err) {
			return err != nil, nil
		}
		return false, fmt.Errorf("read %s: %w", m, err)
	}
	for at := range m.MaxEntries() {
		raw, err := m.LookupBytes(at)
		if err != nil {
			return false, fmt.Errorf("read %s: %w", m, err)
		}
		if !isZero(raw) {
			return false, nil
		}
	}
	return true, nil
}

func (s *source) readControl() (err error) {
	s.word, s.last, err = s.readWord()
	return err
}

// readWord reads the live word, settled if its deadline is over, and the last generation.
func (p *pinnedMaps) readWord() (live, uint64, error) {
	m, err := p.need(pinControl)
	if err != nil {
		return live{}, 0, err
	}
	raw, r, err := m.single("word", "last")
	if err != nil {
		return live{}, 0, err
	}
	word := liveOf(r.number(raw, "word"))
	if now := monotonicNow(); !word.pending(now) {
		word = live{generation: word.inForce(now)}
	}
	return word, r.number(raw, "last"), nil
}

func (s *source) inForce() []uint16 { return s.word.generations() }

// generations are those that programs may judge by, the one that comes back first.
func (l live) generations() []uint16 {
	if l.deadline == 0 {
		return []uint16{l.generation}
	}
	return []uint16{l.fallback, l.generation}
}

// readTexts reads the policies in force, and those that can be gone back to.
func (s *source) readTexts() error {
	all, err := s.readPieces()
	if err != nil {
		return err
	}
	for _, generation := range s.inForce() {
		text, ok := all[generation]
		if !ok {
			return errDamaged(fmt.Sprintf("policy of generation %d", generation))
		}
		s.policies = append(s.policies, sourcePolicy{sourceText: *text})
		delete(all, generation)
	}
	for _, generation := range slices.Sorted(maps.Keys(all)) {
		if all[generation].applied != 0 {
			s.kept = append(s.kept, *all[generation])
		}
	}
	for n := range s.kept {
		if err := s.kept[n].unpack(); err != nil {
			return err
		}
	}
	for n := range s.policies {
		if err := s.policies[n].unpack(); err != nil {
			return err
		}
	}
	return nil
}

func (t *sourceText) unpack() (err error) {
	t.policy, err = unpackPolicy(bytes.NewReader(t.packed))
	if err != nil {
		return fmt.Errorf("the policy of generation %d: %w", t.generation, err)
	}
	return nil
}

// readPieces puts the pieces of all texts together. Those of a killed apply may be incomplete, and are left out.
func (s *source) readPieces() (map[uint16]*sourceText, error) {
	m, err := s.need(limiterMapPolicyTexts)
	if err != nil {
		return nil, err
	}
	key, err := newReader(m.key)
	if err != nil {
		return nil, err
	}
	value, err := newReader(m.value)
	if err == nil {
		err = errors.Join(key.want("generation", "piece"), value.want("bytes", "pieces", "applied", "by", "text"))
	}
	if err != nil {
		return nil, err
	}
	pieces := map[uint16]map[uint64][]byte{}
	err = eachBatch(m.Map, func(b *rawBatch, n int) error {
		for j := range n {
			generation := uint16(key.number(b.key(j), "generation"))
			if pieces[generation] == nil {
				pieces[generation] = map[uint64][]byte{}
			}
			pieces[generation][key.number(b.key(j), "piece")] = bytes.Clone(b.value(j))
		}
		return nil
	})
	out := map[uint16]*sourceText{}
	for generation, of := range pieces {
		if text, ok := joinPieces(value, of); ok {
			text.generation = generation
			out[generation] = text
		}
	}
	return out, err
}

func joinPieces(r reader, of map[uint64][]byte) (*sourceText, bool) {
	first := of[0]
	text := &sourceText{by: r.text(first, "by"), applied: r.number(first, "applied")}
	for n := range r.number(first, "pieces") {
		piece, there := of[n]
		part := r.bytes(piece, "text")
		size := r.number(piece, "bytes")
		if !there || size > uint64(len(part)) {
			return nil, false
		}
		text.packed = append(text.packed, part[:size]...)
	}
	return text, first != nil
}

// readIDs finds the ids under which the services and limits of the policies in force are counted.
func (s *source) readIDs() error {
	for n := range s.policies {
		p := &s.policies[n]
		c, err := compile(p.policy, predecessor{})
		if err != nil {
			return fmt.Errorf("the policy of generation %d: %w", p.generation, err)
		}
		p.ids, err = s.idsOf(p.generation, c)
		if err != nil {
			return fmt.Errorf("the policy of generation %d: %w", p.generation, err)
		}
	}
	return nil
}

func (s *source) idsOf(generation uint16, c *compiled) (givenIDs, error) {
	ids := givenIDs{services: map[string]uint32{}, limits: map[uint32]uint32{}}
	t, err := s.readTables()
	if err != nil {
		return ids, err
	}
	taken := map[uint64]bool{}
	for n, name := range c.names {
		id, err := t.service(generation, uint32(n))
		if err != nil {
			return ids, err
		}
		if id >= uint64(limiterAbiSERVICE_IDS) || taken[id] {
			return ids, errDamaged("services in force")
		}
		taken[id], ids.services[name] = true, uint32(id)
	}
	clear(taken)
	for _, at := range c.places() {
		id, kind, per, err := t.limit(generation, at)
		if err != nil {
			return ids, err
		}
		l := c.limits[at]
		if id >= uint64(limiterAbiLIMIT_IDS) || taken[id] || kind != uint64(l.Kind) || per != uint64(l.Per) {
			return ids, errDamaged("limits in force")
		}
		taken[id], ids.limits[at] = true, uint32(id)
	}
	return ids, nil
}

// readAttachments lists what is attached, as attached does.
func (s *source) readAttachments() error {
	unknown, err := s.dir.unknownPins()
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%v is attached in a way that this version does not know", unknown[0])
	}
	keys, err := s.dir.attachments()
	if err != nil {
		return err
	}
	records, err := s.readRecords()
	if err != nil {
		return err
	}
	for _, k := range keys {
		at := attachment{key: k, slot: uint32(limiterAbiMAX_INTERFACES), dir: s.dir}
		for slot, r := range records {
			if r.NetnsCookie == k.cookie && int(r.Ifindex) == k.ifindex {
				at.slot, at.record = uint32(slot), interfaceRecord{r}
			}
		}
		if at.slot == uint32(limiterAbiMAX_INTERFACES) || modeFromCode(at.record.Hook) == "" {
			return fmt.Errorf("there is no record of %s", k)
		}
		s.all = append(s.all, at)
	}
	return nil
}

// checkHooks wants no hook to hold somebody else's program: it would be displaced. What holds none is mended by
// attach.
func (s *source) checkHooks() error {
	for _, at := range s.hooks() {
		id, err := at.hookProgram()
		if errors.Is(err, errNetnsGone) {
			continue
		}
		if err != nil {
			return fmt.Errorf("interface %s: %w", at.record.name(), err)
		}
		if id != 0 && !s.dir.programs(at.key.String())[id] {
			return fmt.Errorf("interface %s runs another program (%s)", at.record.name(), describeProgram(id))
		}
	}
	return nil
}

// hooks are all hooks of all attachments.
func (s *source) hooks() (all []attachment) {
	for _, at := range s.all {
		all = append(all, at.hooks()...)
	}
	return all
}

func (s *source) readRecords() ([]limiterInterface, error) {
	m, err := s.need(limiterMapInterfaces)
	if err != nil {
		return nil, err
	}
	value, err := s.own.value(limiterMapInterfaces)
	if err != nil {
		return nil, err
	}
	plan, err := planCopy(m.value, value)
	if err != nil {
		return nil, err
	}
	var records []limiterInterface
	out := make([]byte, plan.size)
	err = eachBatch(m.Map, func(b *rawBatch, n int) error {
		for j := range n {
			if err := plan.convert(out, b.value(j)); err != nil {
				return fmt.Errorf("an interface record: %w", err)
			}
			records = append(records, as[limiterInterface](out))
		}
		return nil
	})
	return records, err
}
