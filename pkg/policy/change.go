// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
)

// DefaultService is the name of the one service without a policy file.
const DefaultService = "default"

// Default is the policy without a file: one service, all TCP ports, with a limit of new connections of
// one source, or none. It is normal.
func Default(limit *NewLimit) *Policy {
	s := Service{Name: DefaultService, Listen: []Listen{{Proto: TCP, Last: 65535}}}
	if limit != nil {
		s.Limits = []Limit{{Kind: KindNew, Per: PerSource, Rate: limit.Rate, Burst: limit.Burst}}
	}
	p := &Policy{Services: []Service{s}}
	p.Normalize()
	return p
}

// LimitChange is what is to change in the limits of one service. What is nil stays.
type LimitChange struct {
	// New and Burst are for the first limit of new connections per source. With a New and no Burst the
	// burst is as by default.
	New   *Rate
	Burst *uint64
	// NewOff takes that limit away.
	NewOff bool
	// Concurrent is for the first limit of concurrent connections per source.
	Concurrent *uint64
	// ConcurrentOff takes that limit away.
	ConcurrentOff bool
}

// WithLimit returns a copy of p in which the limits of one service are changed: the first ones of their kind
// per source, or new ones behind all others. Errors wrap ErrInvalid.
func WithLimit(p *Policy, service string, change LimitChange) (*Policy, error) {
	p = p.Clone()
	i := slices.IndexFunc(p.Services, func(s Service) bool { return s.Name == service })
	if i < 0 {
		return nil, p.unknownService(service)
	}
	s := &p.Services[i]
	if err := change.applyNew(s); err != nil {
		return nil, err
	}
	change.applyConcurrent(s)
	p.Normalize()
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Policy) unknownService(name string) error {
	var names []string
	for _, s := range p.Services {
		names = append(names, s.Name)
	}
	if len(names) == 0 {
		return invalid(fmt.Sprintf("service %q", name), "the policy has no services; apply one with -f FILE")
	}
	return invalid(fmt.Sprintf("service %q", name), "there is none of this name%s; there are %s", suggest(name, names), list(names))
}

// perSource returns the place of the first limit of a kind per source, -1 if there is none.
func (s *Service) perSource(kind Kind) int {
	return slices.IndexFunc(s.Limits, func(l Limit) bool { return l.Kind == kind && l.Per == PerSource })
}

// firstPerSource returns that limit, or nil.
func (s *Service) firstPerSource(kind Kind) *Limit {
	if i := s.perSource(kind); i >= 0 {
		return &s.Limits[i]
	}
	return nil
}

func (s *Service) remove(kind Kind) {
	if i := s.perSource(kind); i >= 0 {
		s.Limits = slices.Delete(s.Limits, i, i+1)
	}
}

func (c LimitChange) applyNew(s *Service) error {
	if c.NewOff {
		s.remove(KindNew)
		return nil
	}
	if c.New == nil && c.Burst == nil {
		return nil
	}
	l := s.firstPerSource(KindNew)
	switch {
	case l == nil && c.New == nil:
		return invalid(fmt.Sprintf("burst %d", *c.Burst),
			"service %s has no limit of new connections per source whose rate it could keep; give --new RATE too", s.Name)
	case l == nil:
		s.Limits = append(s.Limits, Limit{Kind: KindNew, Per: PerSource, Rate: *c.New})
		l = s.firstPerSource(KindNew)
	case c.New != nil:
		l.Rate, l.Burst = *c.New, 0
	}
	if c.Burst != nil {
		if l.Burst = *c.Burst; l.Burst == 0 {
			return invalid("burst 0", "it would refuse every new connection; use at least 1")
		}
	}
	return nil
}

func (c LimitChange) applyConcurrent(s *Service) {
	switch {
	case c.ConcurrentOff:
		s.remove(KindConcurrent)
	case c.Concurrent == nil:
	case s.firstPerSource(KindConcurrent) == nil:
		s.Limits = append(s.Limits, Limit{Kind: KindConcurrent, Per: PerSource, Concurrent: *c.Concurrent})
	default:
		s.firstPerSource(KindConcurrent).Concurrent = *c.Concurrent
	}
}
