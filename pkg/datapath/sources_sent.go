// SPDX-License-Identifier: Apache-2.0

package datapath

// sentLevels are the limits of bytes_out that count what is sent to one source, by the ids of services.
type sentLevels struct {
	checker
	limits map[uint32][]limiterLimit
	asks   bool // some limit is of sets
}

// sentLevels reads the limits in force; nil where none counts what is sent.
func (i *Instance) sentLevels() (*sentLevels, error) {
	now := monotonicNow()
	slot := slotOfGeneration(i.live().inForce(now))
	s := &sentLevels{
		checker: checker{Instance: i, slot: slot, head: i.control.Policies[slot], nowNs: now},
		limits:  map[uint32][]limiterLimit{},
	}
	if !needsEgress(s.head.Features) {
		return nil, nil
	}
	for n := range min(s.head.Services, uint32(limiterAbiMAX_SERVICES)) {
		if err := s.addService(i.tables.Services[slot*uint32(limiterAbiMAX_SERVICES)+n]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *sentLevels) addService(of limiterService) error {
	limits, err := s.limitsOf(of)
	if err != nil {
		return err
	}
	for _, at := range limits {
		l := at.limiterLimit
		if bytesOut(&l) && l.Per == uint8(limiterLimitPerPER_SOURCE) {
			s.limits[of.Id] = append(s.limits[of.Id], l)
			s.asks = s.asks || l.From != 0 || l.Except != 0
		}
	}
	return nil
}

// fill adds to a line of the ledger what was sent to its source and has not drained: the most of what its limits
// count.
func (s *sentLevels) fill(line *Source, service uint32) error {
	if s == nil || len(s.limits[service]) == 0 {
		return nil
	}
	s.source = line.Prefix.Addr()
	if s.asks {
		in, err := s.sets()
		if err != nil {
			return err
		}
		s.in = in
	}
	for _, l := range s.limits[service] {
		if l.From != 0 && l.From&s.in == 0 || l.Except&s.in != 0 {
			continue
		}
		line.Sends = true
		if meterSlot(s.tables, &l, hashKey(&s.control.Hash, &l, s.source, s.local)) != nil {
			owed, _ := s.owed(&l)
			line.BytesOut = max(line.BytesOut, l.counted(owed))
		}
	}
	return nil
}
