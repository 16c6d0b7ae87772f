// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
	"testing"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// row is a good packet with one mutation, and how it ends under a limit of one connection and empty
// lists. What follows from that end is not written down but tried on each row: see examine.
type row struct {
	name   string
	packet tg.Packet
	// edit changes the built frame, for what Packet has no field.
	edit func(frame []byte) []byte
	want end
	// segments is what one skb stands for; such a row is only for TC.
	segments uint32
	// initial: what opens a connection of QUIC. A program that can tell keeps it from a source that is
	// blocked for new connections, though no service here takes it.
	initial bool
	// nobody: it ends before its source is known, so that no list, and not the ledger, can hold it.
	nobody bool
}

// topics are all tables of rows, by what they are about.
func topics() map[string][]row {
	return map[string][]row{
		"plain": plainRows(), "link": linkRows(), "tcp": tcpRows(), "ipv4": ipv4Rows(),
		"fragments4": fragment4Rows(), "ipv6": ipv6Rows(), "chains": chainRows(),
		"fragments6": fragment6Rows(), "segments": segmentRows(),
	}
}

// The good packets. Source and destination are of documentation prefixes.
var (
	client4 = netip.MustParseAddrPort("192.0.2.7:40000")
	server4 = netip.MustParseAddrPort("198.51.100.1:443")
	client6 = netip.MustParseAddrPort("[2001:db8:1:2::7]:40000")
	server6 = netip.MustParseAddrPort("[2001:db8:ff::1]:443")
)

func syn4(with ...tg.Mutation) tg.Packet { return tg.SYN(client4, server4).With(with...) }
func syn6(with ...tg.Mutation) tg.Packet { return tg.SYN(client6, server6).With(with...) }

// The ends that most rows have.
var (
	isNew         = passed(limiterReasonREASON_UNDER_LIMIT)
	isOver        = dropped(limiterReasonREASON_OVER_NEW)
	isEstablished = passed(limiterReasonREASON_ESTABLISHED)
	isOther       = passed(limiterReasonREASON_NO_SERVICE)
	isNotIP       = passed(limiterReasonREASON_NOT_IP)
	isUnparsed    = passed(limiterReasonREASON_UNPARSED)
	isLater       = passed(limiterReasonREASON_FRAGMENT)
	isEvasive     = dropped(limiterReasonREASON_FRAGMENT)
	isMalformed   = dropped(limiterReasonREASON_MALFORMED)
	isBlocked     = dropped(limiterReasonREASON_BLOCKED)
	isAllowed     = passed(limiterReasonREASON_ALLOWED)
)

func (r row) bytes() []byte {
	frame := r.packet.Bytes()
	if r.edit != nil {
		return r.edit(frame)
	}
	return frame
}

func (r row) hooks() []hook {
	if r.segments > 0 {
		return []hook{hookTCX}
	}
	return bothHooks
}

// source is what the row counts under.
func (r row) source() netip.Prefix {
	if r.nobody || !r.packet.Src.IsValid() {
		return netip.Prefix{}
	}
	return sourceOf(r.packet.Src)
}

func TestProgram(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for topic, rows := range topics() {
		for _, r := range rows {
			t.Run(topic+"/"+r.name, func(t *testing.T) {
				l.t = t
				l.specialisedAndGeneral(func() {
					for _, h := range r.hooks() {
						l.examine(h, r)
					}
				})
			})
		}
	}
}

// examine tries a row, and what must follow from its end: a new connection is counted, so the second
// is refused; what reaches the lists stage is blocked and allowed by them; what was refused passes
// under observe; what could not be parsed is refused under strict parsing. Nothing else is counted.
func (l *programLab) examine(h hook, r row) {
	l.t.Helper()
	l.try(h, r, r.want, "as it is")
	if r.want == isNew {
		l.again(h, r)
	}
	if slices.Contains([]end{isNew, isEstablished, isOther, isLater, isUnparsed}, r.want) && r.source().IsValid() {
		l.examineLists(h, r)
	}
	l.examineModes(h, r)
	l.expectNoOther()
	l.expectLedger(map[ledgerKey]ledgerLine{}, "when all is told")
}

// try judges the row as the first packet of its source and looks at what the ledger says then: every
// new connection and every blocked packet. A refusal for its shape alone makes no line, for anybody
// can forge it, and adds to one that is there.
func (l *programLab) try(h hook, r row, want end, what string, changes ...func(*policy.Policy)) {
	l.t.Helper()
	l.rules(onceADay(1), changes...)
	l.forgetLevelOf(r)
	l.expect(h, r.bytes(), r.segments, want, what)
	if !r.source().IsValid() {
		return
	}
	k := r.ledgerKey(want)
	l.expectLine(k, r.line(want, false), string(h)+" "+what)
	if r.line(want, true) == r.line(want, false) {
		return
	}
	must(l.t, l.maps.Sources.Put(l.sourceKey(k), limiterSource{}))
	l.expect(h, r.bytes(), r.segments, want, what)
	l.expectLine(k, r.line(want, true), string(h)+" "+what+", of a known source")
}

// ledgerKey is what the ledger files the row under when it ends so: a limit belongs to a service, and
// what ends before that to none.
func (r row) ledgerKey(e end) ledgerKey {
	if e.ownService() || e.ownLimit() {
		return ledgerKey{r.source(), policy.DefaultService}
	}
	return ledgerKey{source: r.source()}
}

// line is what the ledger holds of the row's source when the row was the first that it judged.
func (r row) line(e end, known bool) (out ledgerLine) {
	n := uint64(max(r.segments, 1))
	switch {
	case e.action == limiterActionACTION_PASS && r.want == isNew:
		out.admitted = n
	case e.action == limiterActionACTION_PASS:
	case known || r.want == isNew || e.reason == isBlocked.reason:
		out.refused = n
	}
	return out
}

// again judges the row a second time, over the limit that the first left.
func (l *programLab) again(h hook, r row) {
	l.t.Helper()
	l.expect(h, r.bytes(), r.segments, isOver, "again")
	l.expectLine(r.ledgerKey(isOver), ledgerLine{refused: uint64(max(r.segments, 1))}, string(h)+" again")
}

func (l *programLab) forgetLevelOf(r row) {
	if !r.source().IsValid() {
		return
	}
	limit := l.limit(0)
	if slot := meterSlot(l.tables, limit, hashKey(&l.control.Hash, limit, r.source().Addr(), netip.Addr{})); slot != nil {
		*slot = drained(limit, monotonicNow())
	}
}

// examineLists puts the row's source on the lists, as a host and in a wide prefix.
func (l *programLab) examineLists(h hook, r row) {
	l.t.Helper()
	host, wide := netip.PrefixFrom(r.packet.Src, r.packet.Src.BitLen()), wideAround(r.packet.Src)
	scoped, allowed := r.want, isAllowed
	switch {
	case r.want == isNew, r.initial && l.general:
		scoped = isBlocked
	case r.want == isUnparsed:
		allowed = isUnparsed // the kernel drops it, and nothing is known of it that could be allowed
	}
	for _, c := range []struct {
		what         string
		allow, block netip.Prefix
		scope        Scope
		want         end
	}{
		{"blocked host", netip.Prefix{}, host, ScopeAll, isBlocked},
		{"blocked prefix", netip.Prefix{}, wide, ScopeAll, isBlocked},
		{"host blocked for new", netip.Prefix{}, host, ScopeNew, scoped},
		{"prefix blocked for new", netip.Prefix{}, wide, ScopeNew, scoped},
		{"allowed host in a blocked prefix", host, wide, ScopeAll, allowed},
		{"blocked host in an allowed prefix", wide, host, ScopeAll, allowed},
	} {
		if c.allow.IsValid() {
			l.add(Allow, Entry{Prefix: c.allow})
		}
		l.add(Block, Entry{Prefix: c.block, Scope: c.scope})
		l.try(h, r, c.want, c.what)
		l.clearLists()
	}
}

func wideAround(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(a, 17).Masked()
	}
	return netip.PrefixFrom(a, 29).Masked()
}

// examineModes tries the row under observe and under strict parsing.
func (l *programLab) examineModes(h hook, r row) {
	l.t.Helper()
	l.try(h, r, underObserve(r.want), "observe", observing)
	l.try(h, r, underStrict(r.want), "strict", strictly)
	l.try(h, r, underObserve(underStrict(r.want)), "observe, strict", observing, strictly)
}

func underObserve(e end) end {
	if e.action == limiterActionACTION_DROP {
		return observed(e.reason)
	}
	return e
}

func underStrict(e end) end {
	if e == isUnparsed {
		return dropped(e.reason)
	}
	return e
}
