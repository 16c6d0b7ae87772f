// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

var (
	isFull      = dropped(limiterReasonREASON_TABLE_FULL)
	isFullOpen  = passed(limiterReasonREASON_TABLE_FULL)
	isContended = dropped(limiterReasonREASON_CONTENDED)
)

// fullTable makes one bucket of the table, whose slots all owe more than the limit allows.
func (l *programLab) fullTable(limit limiterLimit) {
	now := monotonicNow() >> limit.UnitShift
	for way := range uint64(limiterAbiMETER_WAYS) {
		l.meters.all[way] = (way+1)*slotBorrowed<<1 | (now+limit.Capacity)&slotTAT
	}
}

func oneBucket(p *limiterPolicy) { p.Limit.BucketMask = 0 }

// damaged points the limit at a bucket that is not there: no decision can be made by it.
func damaged(p *limiterPolicy) { p.Limit.FirstBucket = ^uint32(0) - p.Limit.BucketMask }

// policyCase is a state of policy and meters, and how SYNs of one source end under it, in turn.
type policyCase struct {
	name    string
	burst   uint64 // 0: no limit
	changes []func(*limiterPolicy)
	full    bool
	want    []end
}

func policyCases() []policyCase {
	return []policyCase{
		{"no limit", 0, nil, false, []end{isNew, isNew, isNew}},
		{"no limit, observe", 0, []func(*limiterPolicy){observing}, false, []end{isNew, isNew}},
		{"burst 1", 1, nil, false, []end{isNew, isOver, isOver}},
		{"burst 3", 3, nil, false, []end{isNew, isNew, isNew, isOver}},
		{"observe", 1, []func(*limiterPolicy){observing}, false, []end{isNew, observed(isOver.reason), observed(isOver.reason)}},
		{"strict", 1, []func(*limiterPolicy){strictly}, false, []end{isNew, isOver}},
		{"precise clock", 1, []func(*limiterPolicy){func(p *limiterPolicy) { p.PreciseClock = 1 }}, false, []end{isNew, isOver}},
		{"full, drop", 1, []func(*limiterPolicy){oneBucket}, true, []end{isFull, isFull}},
		{"full, pass", 2, []func(*limiterPolicy){oneBucket, failOpen}, true, slices.Concat(slices.Repeat([]end{isFullOpen}, 2*aggregateShare), []end{isFull, isFull})},
		{"full, pass, observe", 1, []func(*limiterPolicy){oneBucket, failOpen, observing}, true, slices.Concat(slices.Repeat([]end{isFullOpen}, aggregateShare), []end{observed(isFull.reason)})},
		{"full, drop, observe", 1, []func(*limiterPolicy){oneBucket, observing}, true, []end{observed(isFull.reason)}},
		{"full, no limit", 0, []func(*limiterPolicy){oneBucket}, true, []end{isNew}},
		{"damaged", 1, []func(*limiterPolicy){damaged}, false, []end{isContended}},
		{"damaged, observe", 1, []func(*limiterPolicy){damaged, observing}, false, []end{observed(isContended.reason)}},
	}
}

func TestPolicies(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, c := range policyCases() {
		t.Run(c.name, func(t *testing.T) {
			l.t = t
			for _, p := range []tg.Packet{syn4(), syn6()} {
				for _, h := range bothHooks {
					l.tryPolicy(h, p, c)
				}
			}
		})
	}
}

func (l *programLab) tryPolicy(h hook, p tg.Packet, c policyCase) {
	l.t.Helper()
	clear(l.meters.all)
	if c.burst > 0 {
		l.rules(onceADay(c.burst), c.changes...)
	} else {
		l.rules(nil, c.changes...)
	}
	must(l.t, l.maps.Aggregates.Put(uint32(0), limiterAggregate{}))
	_, live := l.live()
	if c.full {
		l.fullTable(live.Limit)
	}
	var want ledgerLine
	for _, e := range c.want {
		l.expect(h, p.Bytes(), 0, e, c.name)
		if e.action == limiterActionACTION_PASS {
			want.admitted++
		} else {
			want.refused++
		}
	}
	l.expectLine(sourceOf(p.Src), want, c.name)
	l.expectNoOther()
}

// live reads the policy as the data path does, damaged or not.
func (l *programLab) live() (control limiterControl, p limiterPolicy) {
	l.t.Helper()
	must(l.t, l.maps.Control.Lookup(uint32(0), &control))
	must(l.t, l.maps.Policies.Lookup(control.Active, &p))
	return control, p
}

// Every reason and every action that the data path can count has a case in a table here.
func TestEveryReasonHasACase(t *testing.T) {
	reasons, actions := map[limiterReason]bool{}, map[limiterAction]bool{}
	note := func(e end) {
		reasons[e.reason], actions[e.action] = true, true
		if reasonNames[e.reason] == "" || actionNames[e.action] == "" {
			t.Errorf("reason %d or action %d has no name", e.reason, e.action)
		}
	}
	for _, rows := range topics() {
		for _, r := range rows {
			note(r.want)
		}
	}
	for _, c := range policyCases() {
		for _, e := range c.want {
			note(e)
		}
	}
	for _, c := range listCases(nested4(), nil) {
		note(c.syn)
	}
	for reason := limiterReasonREASON_NONE + 1; reason < limiterReasonREASON_COUNT; reason++ {
		if !reasons[reason] {
			t.Errorf("reason %d (%s) has no case", reason, reasonNames[reason])
		}
	}
	for action := range limiterActionACTION_COUNT {
		if !actions[action] {
			t.Errorf("action %d (%s) has no case", action, actionNames[action])
		}
	}
}

// A customer has a /64: all its addresses are one source. The next /64 is another.
func TestThousandAddressesOfOneSlash64(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	const burst, addresses = 7, 1000
	for _, h := range bothHooks {
		clear(l.meters.all)
		l.rules(onceADay(burst))
		want := map[netip.Prefix]ledgerLine{}
		for _, net := range []string{"2001:db8:5:1::", "2001:db8:5:2::"} {
			first := netip.MustParseAddr(net)
			for i := range addresses {
				e := isOver
				if i < burst {
					e = isNew
				}
				src := withHost(first, uint64(i)*0x9e3779b97f4a7c15)
				l.expect(h, syn6(func(p *tg.Packet) { p.Src = src }).Bytes(), 0, e, src.String())
			}
			want[sourceOf(first)] = ledgerLine{admitted: burst, refused: addresses - burst}
		}
		l.expectLedger(want, string(h))
		for p := range want {
			l.take(p)
		}
	}
	l.expectNoOther()
}

// withHost puts an interface id into the lower half of an IPv6 address.
func withHost(a netip.Addr, id uint64) netip.Addr {
	b := a.As16()
	for i := range 8 {
		b[15-i] = byte(id >> (8 * i))
	}
	return netip.AddrFrom16(b)
}

// Each IPv4 address is a source of its own.
func TestNeighboursInIPv4AreTwoSources(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	l.rules(onceADay(1))
	for src, i := client4.Addr(), 0; i < 200; src, i = src.Next(), i+1 {
		frame := syn4(func(p *tg.Packet) { p.Src = src }).Bytes()
		l.expect(hookXDP, frame, 0, isNew, src.String())
		l.expect(hookTCX, frame, 0, isOver, src.String()+" again, by the other hook")
	}
	l.expectNoOther()
}

// A trie's value lies behind its key without padding. An atomic add to a word that is not aligned
// locks the bus where it spans two cache lines (0.5 ms a dropped packet, measured on a Xeon with bus
// lock detection, against 0.1 us) and faults on arm64.
func TestBugHitsOfAPrefixAreNotAligned(t *testing.T) {
	var key limiterPrefixKey
	data := unsafe.Sizeof(key) - unsafe.Sizeof(key.Prefixlen)
	if data%8 != 0 {
		t.Errorf("%d bytes of trie key data put list_entry.hits at an address that is not a multiple of 8; pad prefix_key", data)
	}
}

// What a flood on one limit leaves in the aggregate must not close the next limit: under 1000/s a
// full table lets 100 times that through, however full it was under 1/d a moment ago.
func TestBugAggregateOutlivesItsLimit(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	must(t, l.SetLimit(onceADay(1)))
	left := limiterAggregate{TatNs: monotonicNow() + uint64(24*time.Hour)}
	must(t, l.maps.Aggregates.Put(uint32(0), left))
	must(t, l.SetLimit(&policy.NewLimit{Rate: policy.Rate{Count: 1000, Period: time.Second}, Burst: 1000}))
	control, p := l.live()
	p.Limit.BucketMask, p.Limit.FirstBucket = 0, 0
	failOpen(&p)
	must(t, l.maps.Policies.Put(control.Active, p))
	l.fullTable(p.Limit)
	l.expect(hookXDP, syn4().Bytes(), 0, isFullOpen, "after the change")
}
