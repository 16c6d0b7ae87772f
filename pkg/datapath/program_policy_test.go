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
	isFull         = dropped(limiterReasonREASON_TABLE_FULL)
	isFullOpen     = passed(limiterReasonREASON_TABLE_FULL)
	isContended    = dropped(limiterReasonREASON_CONTENDED)
	isOverPackets  = dropped(limiterReasonREASON_OVER_PACKETS)
	isOverBytes    = dropped(limiterReasonREASON_OVER_BYTES_IN)
	isOverObserved = observed(limiterReasonREASON_OVER_NEW)
)

// fullTable makes every slot of the limit's one bucket owe as much as is not taken for stale: what owes just a
// whole burst has room again after T, which under 1000/s is sooner than a slow machine comes to its packet.
func (l *programLab) fullTable() {
	limit := l.limit(0)
	until := (monotonicNow()-uint64(100*time.Millisecond))>>limit.UnitShift + uint64(limit.Stale) // the coarse clock is behind
	bucket := &l.tables.Meters[limit.FirstBucket]
	for way := range bucket.Slot {
		bucket.Slot[way] = uint64(way+1)*slotBorrowed<<1 | until&slotTAT
	}
}

// poke changes what is in force beside what a policy can say.
type poke func(l *programLab)

func oneBucket(l *programLab) { l.limit(0).BucketMask = 0 }
func precisely(l *programLab) { l.head().PreciseClock = 1 }

// damaged points the limit at buckets behind the table: another bucket decides, and no other memory.
func damaged(l *programLab) { l.limit(0).FirstBucket = ^uint32(0) }

// policyCase is a state of policy and meters, and how SYNs of one source end under it, in turn.
type policyCase struct {
	name    string
	burst   uint64 // 0: no limit
	changes []func(*policy.Policy)
	pokes   []poke
	full    bool
	want    []end
}

func policyCases() []policyCase {
	type changes = []func(*policy.Policy)
	return []policyCase{
		{name: "no limit", want: []end{isNew, isNew, isNew}},
		{name: "no limit, observe", changes: changes{observing}, want: []end{isNew, isNew}},
		{name: "burst 1", burst: 1, want: []end{isNew, isOver, isOver}},
		{name: "burst 3", burst: 3, want: []end{isNew, isNew, isNew, isOver}},
		{name: "observe", burst: 1, changes: changes{observing}, want: []end{isNew, observed(isOver.reason), observed(isOver.reason)}},
		{name: "strict", burst: 1, changes: changes{strictly}, want: []end{isNew, isOver}},
		{name: "precise clock", burst: 1, pokes: []poke{precisely}, want: []end{isNew, isOver}},
		{name: "full, drop", burst: 1, pokes: []poke{oneBucket}, full: true, want: []end{isFull, isFull}},
		{
			name: "full, pass", burst: 2, changes: changes{failOpen}, pokes: []poke{oneBucket}, full: true,
			want: slices.Concat(slices.Repeat([]end{isFullOpen}, 2*aggregateShare), []end{isFull, isFull}),
		},
		{
			name: "full, pass, observe", burst: 1, changes: changes{failOpen, observing}, pokes: []poke{oneBucket}, full: true,
			want: slices.Concat(slices.Repeat([]end{isFullOpen}, aggregateShare), []end{observed(isFull.reason)}),
		},
		{name: "full, drop, observe", burst: 1, changes: changes{observing}, pokes: []poke{oneBucket}, full: true, want: []end{observed(isFull.reason)}},
		{name: "full, no limit", pokes: []poke{oneBucket}, full: true, want: []end{isNew}},
		{name: "damaged", burst: 1, pokes: []poke{damaged}, want: []end{isNew, isOver}},
		{name: "damaged, observe", burst: 1, changes: changes{observing}, pokes: []poke{damaged}, want: []end{isNew, observed(isOver.reason)}},
	}
}

func TestPolicies(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, c := range policyCases() {
		t.Run(c.name, func(t *testing.T) {
			l.t = t
			l.specialisedAndGeneral(func() {
				for _, p := range []tg.Packet{syn4(), syn6()} {
					for _, h := range bothHooks {
						l.tryPolicy(h, p, c)
					}
				}
			})
		})
	}
}

func (l *programLab) tryPolicy(h hook, p tg.Packet, c policyCase) {
	l.t.Helper()
	var limit *policy.NewLimit
	if c.burst > 0 {
		limit = onceADay(c.burst)
	}
	l.rules(limit, c.changes...)
	l.emptyMeters()
	for _, poke := range c.pokes {
		poke(l)
	}
	if c.full {
		l.fullTable()
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
	l.expectLine(ledgerKey{sourceOf(p.Src), policy.DefaultService}, want, c.name)
	l.expectNoOther()
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
	for _, c := range serviceCases() {
		for _, s := range c.steps {
			note(s.want)
		}
	}
	for _, c := range sentCases() {
		for _, s := range c.steps {
			note(s.want)
		}
	}
	note(isContended)      // TestContended
	note(isOverConcurrent) // TestConcurrentSYNs
	note(isChallenged)     // TestChallengeOfASource
	note(isProven)
	note(isExempt) // TestExemptIsWhoConnectedLately
	note(isProbed) // TestProbeStrikes
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
	l.rules(onceADay(7))
	l.specialisedAndGeneral(func() {
		for _, h := range bothHooks {
			l.tryThousandAddresses(h, 7)
		}
	})
	l.expectNoOther()
}

func (l *programLab) tryThousandAddresses(h hook, burst uint64) {
	l.t.Helper()
	const addresses = 1000
	l.emptyMeters()
	want := map[ledgerKey]ledgerLine{}
	for _, net := range []string{"2001:db8:5:1::", "2001:db8:5:2::"} {
		first := netip.MustParseAddr(net)
		for i := range uint64(addresses) {
			e := isOver
			if i < burst {
				e = isNew
			}
			src := withHost(first, i*0x9e3779b97f4a7c15)
			l.expect(h, syn6(func(p *tg.Packet) { p.Src = src }).Bytes(), 0, e, src.String())
		}
		want[ledgerKey{sourceOf(first), policy.DefaultService}] = ledgerLine{admitted: burst, refused: addresses - burst}
	}
	l.expectLedger(want, string(h))
	for k := range want {
		l.take(k)
	}
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

// What a flood on one limit leaves in the aggregate must not close the next limit: under 1M/1000s a
// full table lets 100 times that through, however full it was under 1/d a moment ago.
func TestBugAggregateOutlivesItsLimit(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	must(t, l.SetLimit(onceADay(1)))
	id := l.limit(0).Id
	l.tables.LimitStates[id].AggregateTatNs = monotonicNow() + uint64(24*time.Hour)
	must(t, l.SetLimit(&policy.NewLimit{Rate: policy.Rate{Count: 1_000_000, Period: 1000 * time.Second}, Burst: 1_000_000}))
	if l.limit(0).Id != id {
		t.Fatal("the limit has another id: the test shows nothing")
	}
	l.head().OnTableFull = uint32(limiterOnTableFullTABLE_FULL_PASS)
	l.program(hookXDP) // is not loaded while the table drains
	oneBucket(l)
	l.fullTable()
	l.expect(hookXDP, syn4().Bytes(), 0, isFullOpen, "after the change")
}
