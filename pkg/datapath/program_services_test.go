// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// serviceCase is a policy and how packets end under it, in turn.
type serviceCase struct {
	name     string
	services []policy.Service
	changes  []func(*policy.Policy)
	steps    []serviceStep
}

// serviceStep is a packet that comes so many times (0: once), and how it ends each time.
type serviceStep struct {
	packet tg.Packet
	times  int
	want   end
	// service is the place of the one that counts it, limit that of the one that decides.
	service, limit int
}

// aDay is a limit of count a day and at once, so that time plays no part.
func aDay(kind policy.Kind, per policy.Per, count uint64, changes ...func(*policy.Limit)) policy.Limit {
	l := policy.Limit{Kind: kind, Per: per, Rate: policy.Rate{Count: count, Period: 24 * time.Hour}, Burst: count}
	for _, change := range changes {
		change(&l)
	}
	return l
}

func over24(l *policy.Limit)       { l.Prefix = policy.PrefixLengths{IPv4: 24, IPv6: 48} }
func thatObserves(l *policy.Limit) { l.Over = policy.OverObserve }
func thatResets(l *policy.Limit)   { l.Over = policy.OverReset }

// listening is a service on some ports of a protocol.
func listening(name string, proto policy.Proto, first, last uint16, limits ...policy.Limit) policy.Service {
	return policy.Service{Name: name, Listen: []policy.Listen{{Proto: proto, First: first, Last: last}}, Limits: limits}
}

func members(prefix string) policy.Members {
	return policy.Members{Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}}
}

// Packets beside the good ones.
func from(address string) tg.Mutation {
	return func(p *tg.Packet) { p.Src = netip.MustParseAddr(address) }
}

func to(address string) tg.Mutation {
	return func(p *tg.Packet) { p.Dst = netip.MustParseAddr(address) }
}

func toPort(port uint16) tg.Mutation { return func(p *tg.Packet) { p.DstPort = port } }

// datagram4 is a frame of 1000 bytes, for limits of bytes are easier to reckon then.
func datagram4(with ...tg.Mutation) tg.Packet {
	return tg.Datagram(client4, server4, make([]byte, 1000-14-20-8)).With(with...)
}

func serviceCases() []serviceCase {
	return slices.Concat(portCases(), volumeCases(), perCases(), setCases(), overCases())
}

func portCases() []serviceCase {
	web := listening("web", policy.TCP, 443, 443, aDay(policy.KindNew, policy.PerSource, 1))
	wide := listening("wide", policy.TCP, 0, 65535, aDay(policy.KindNew, policy.PerSource, 2))
	local := listening("local", policy.TCP, 443, 443, aDay(policy.KindNew, policy.PerSource, 1))
	local.Listen[0].Local = netip.MustParsePrefix("198.51.100.0/24")
	return []serviceCase{
		{name: "one port", services: []policy.Service{web}, steps: []serviceStep{
			{packet: syn4(), want: isNew}, {packet: syn4(), want: isOver, times: 3},
			{packet: syn4(toPort(444)), want: isOther, times: 3}, {packet: syn6(), want: isNew}, {packet: syn6(), want: isOver},
			{packet: segment4(tg.ACK), want: isEstablished}, {packet: segment4(tg.ACK).With(toPort(444)), want: isEstablished},
			{packet: datagram4(), want: isOther},
			{packet: tg.Echo(client4.Addr(), server4.Addr()), want: isOther},
		}},
		{name: "the most specific", services: []policy.Service{wide, web}, steps: []serviceStep{
			{packet: syn4(), want: isNew, service: 1}, {packet: syn4(), want: isOver, limit: 1},
			{packet: syn4(toPort(80)), want: isNew, times: 2}, {packet: syn4(toPort(81)), want: isOver},
		}},
		{name: "a local address", services: []policy.Service{wide, local}, steps: []serviceStep{
			{packet: syn4(), want: isNew, service: 1}, {packet: syn4(), want: isOver, limit: 1},
			{packet: syn4(to("198.51.101.1")), want: isNew, times: 2}, {packet: syn4(to("198.51.101.1")), want: isOver},
			{packet: syn6(), want: isNew, times: 2}, {packet: syn6(), want: isOver},
		}},
	}
}

func volumeCases() []serviceCase {
	packets := aDay(policy.KindPackets, policy.PerSource, 3)
	bytes := aDay(policy.KindBytesIn, policy.PerSource, 3500)
	game := listening("game", policy.UDP, 440, 450, packets)
	return []serviceCase{
		{name: "UDP packets", services: []policy.Service{game}, steps: []serviceStep{
			{packet: datagram4(), want: isNew, times: 3}, {packet: datagram4(), want: isOverPackets, times: 3},
			{packet: datagram4(toPort(451)), want: isOther}, {packet: syn4(), want: isOther},
			{packet: datagram4(from("192.0.2.8")), want: isNew, times: 3}, {packet: datagram4(from("192.0.2.8")), want: isOverPackets},
			{packet: datagram4(tg.Cut(4)), want: isUnparsed}, {packet: segment4(tg.ACK), want: isEstablished},
		}},
		{name: "UDP bytes", services: []policy.Service{listening("game", policy.UDP, 443, 443, bytes)}, steps: []serviceStep{
			{packet: datagram4(), want: isNew, times: 3}, {packet: datagram4(), want: isOverBytes, times: 3},
			{packet: datagram4(tg.Cut(100)), want: isNew, times: 3}, {packet: datagram4(tg.Cut(200)), want: isOverBytes},
		}},
		{name: "TCP packets", services: []policy.Service{listening("web", policy.TCP, 443, 443, packets)}, steps: []serviceStep{
			{packet: syn4(), want: isNew}, {packet: segment4(tg.ACK), want: isNew, times: 2},
			{packet: segment4(tg.ACK), want: isOverPackets, times: 2}, {packet: syn4(), want: isOverPackets},
			{packet: segment4(tg.ACK).With(toPort(444)), want: isEstablished},
		}},
		{name: "UDP packets, observe", services: []policy.Service{game}, changes: []func(*policy.Policy){observing}, steps: []serviceStep{
			{packet: datagram4(), want: isNew, times: 3}, {packet: datagram4(), want: observed(isOverPackets.reason), times: 3},
		}},
	}
}

func perCases() []serviceCase {
	limits := func(limits ...policy.Limit) []policy.Service {
		return []policy.Service{listening("web", policy.TCP, 0, 65535, limits...)}
	}
	source := aDay(policy.KindNew, policy.PerSource, 3)
	return []serviceCase{
		{name: "per destination", services: limits(aDay(policy.KindNew, policy.PerDestination, 2)), steps: []serviceStep{
			{packet: syn4(), want: isNew}, {packet: syn4(from("192.0.2.8")), want: isNew}, {packet: syn4(from("203.0.113.1")), want: isOver},
			{packet: syn4(to("198.51.100.2")), want: isNew, times: 2}, {packet: syn4(to("198.51.100.2")), want: isOver},
		}},
		{name: "per source and destination", services: limits(aDay(policy.KindNew, policy.PerSourceDestination, 1)), steps: []serviceStep{
			{packet: syn4(), want: isNew}, {packet: syn4(), want: isOver}, {packet: syn4(to("198.51.100.2")), want: isNew},
			{packet: syn4(from("192.0.2.8")), want: isNew}, {packet: syn4(from("192.0.2.8"), to("198.51.100.2")), want: isNew},
			{packet: syn4(from("192.0.2.8"), to("198.51.100.2")), want: isOver},
		}},
		{name: "per service", services: limits(aDay(policy.KindNew, policy.PerService, 2)), steps: []serviceStep{
			{packet: syn4(), want: isNew}, {packet: syn6(), want: isNew}, {packet: syn4(from("203.0.113.9")), want: isOver, times: 2},
		}},
		{name: "per /24 and /48", services: limits(aDay(policy.KindNew, policy.PerSource, 2, over24)), steps: []serviceStep{
			{packet: syn4(), want: isNew}, {packet: syn4(from("192.0.2.200")), want: isNew}, {packet: syn4(from("192.0.2.1")), want: isOver},
			{packet: syn4(from("192.0.3.1")), want: isNew}, {packet: syn6(), want: isNew},
			{packet: syn6(from("2001:db8:1:ffff::1")), want: isNew}, {packet: syn6(), want: isOver},
		}},
		// Who is refused is charged nowhere: a limit that comes first is not used up by what a later one refuses.
		{name: "all or none", services: limits(source, aDay(policy.KindNew, policy.PerDestination, 1)), steps: []serviceStep{
			{packet: syn4(), want: isNew}, {packet: syn4(), want: isOver, limit: 1, times: 5},
			{packet: syn4(to("198.51.100.2")), want: isNew}, {packet: syn4(to("198.51.100.3")), want: isNew},
			{packet: syn4(to("198.51.100.4")), want: isOver}, {packet: syn4(from("192.0.2.8"), to("198.51.100.4")), want: isNew},
		}},
		{name: "global", services: []policy.Service{listening("web", policy.TCP, 443, 443), listening("ssh", policy.TCP, 22, 22, aDay(policy.KindNew, policy.PerSource, 1))},
			changes: []func(*policy.Policy){func(p *policy.Policy) { p.Global.Limits = []policy.Limit{source} }}, steps: []serviceStep{
				{packet: syn4(toPort(22)), want: isNew, service: 1}, {packet: syn4(toPort(22)), want: isOver},
				{packet: syn4(), want: isNew, times: 2}, {packet: syn4(), want: isOver, limit: 1}, {packet: syn4(toPort(80)), want: isOther},
			}},
	}
}

func setCases() []serviceCase {
	one := func(change func(*policy.Service)) []policy.Service {
		s := listening("web", policy.TCP, 0, 65535, aDay(policy.KindNew, policy.PerSource, 1))
		change(&s)
		return []policy.Service{s}
	}
	return []serviceCase{
		{name: "except", services: one(func(s *policy.Service) { s.Limits[0].Except = members("192.0.2.0/28") }), steps: []serviceStep{
			{packet: syn4(), want: isNew, times: 5}, {packet: syn4(from("192.0.2.16")), want: isNew}, {packet: syn4(from("192.0.2.16")), want: isOver},
		}},
		{name: "from", services: one(func(s *policy.Service) { s.Limits[0].From = members("192.0.2.0/28") }), steps: []serviceStep{
			{packet: syn4(), want: isNew}, {packet: syn4(), want: isOver}, {packet: syn4(from("192.0.2.16")), want: isNew, times: 5},
		}},
		{name: "allow of a service", services: one(func(s *policy.Service) { s.Allow = members("2001:db8:1::/48") }), steps: []serviceStep{
			{packet: syn6(), want: isAllowedHere, times: 5}, {packet: syn4(), want: isNew}, {packet: syn4(), want: isOver},
		}},
	}
}

// isAllowedHere is how the packets end that their service's own allow passes.
var isAllowedHere = passed(limiterReasonREASON_ALLOWED)

func overCases() []serviceCase {
	reset := end{limiterReasonREASON_OVER_NEW, limiterActionACTION_RESET}
	observes := aDay(policy.KindNew, policy.PerSource, 1, thatObserves)
	return []serviceCase{
		{name: "over: observe", services: []policy.Service{listening("web", policy.TCP, 0, 65535, observes)}, steps: []serviceStep{
			{packet: syn4(), want: isNew}, {packet: syn4(), want: isOverObserved, times: 4},
		}},
		{name: "over: observe, then drop", services: []policy.Service{listening("web", policy.TCP, 0, 65535, observes, aDay(policy.KindNew, policy.PerSource, 2))}, steps: []serviceStep{
			{packet: syn4(), want: isNew}, {packet: syn4(), want: isOverObserved}, {packet: syn4(), want: isOver, limit: 1, times: 3},
		}},
		{name: "over: reset", services: []policy.Service{listening("web", policy.TCP, 0, 65535, aDay(policy.KindNew, policy.PerSource, 1, thatResets))}, steps: []serviceStep{
			{packet: syn4(), want: isNew}, {packet: syn4(), want: reset},
		}},
		{name: "over: reset, observe", services: []policy.Service{listening("web", policy.TCP, 0, 65535, aDay(policy.KindNew, policy.PerSource, 1, thatResets))}, changes: []func(*policy.Policy){observing}, steps: []serviceStep{
			{packet: syn4(), want: isNew}, {packet: syn4(), want: isOverObserved},
		}},
	}
}

// A policy means the same to a program that can do what it needs and no more, and to one that can do all.
func TestServices(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, c := range serviceCases() {
		t.Run(c.name, func(t *testing.T) {
			l.t = t
			l.rules(nil, append([]func(*policy.Policy){func(p *policy.Policy) { p.Services = c.services }}, c.changes...)...)
			l.specialisedAndGeneral(func() {
				for _, h := range bothHooks {
					l.emptyMeters()
					for n, s := range c.steps {
						l.tryStep(h, n, s)
					}
				}
			})
			l.expectNoOther()
		})
	}
}

func (l *programLab) tryStep(h hook, n int, s serviceStep) {
	l.t.Helper()
	what := fmt.Sprintf("general %v, step %d", l.general, n)
	for range max(s.times, 1) {
		if s.want == isAllowedHere { // a service counts whom its own allow lets in
			at := servicesAt + l.service(s.service).Id
			sum := l.expected[at]
			l.expected[at] = Counter{sum.Packets + 1, sum.Bytes + uint64(len(s.packet.Bytes()))}
		}
		l.expectAt(h, s.packet.Bytes(), 0, s.want, l.service(s.service).Id, l.limit(s.limit).Id, what)
	}
}
