// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// listCase is entries and what they make of a SYN and of an ACK from client4 or client6.
type listCase struct {
	name     string
	allow    []Entry
	block    []Entry
	syn, ack end
}

func entry(prefix string, changes ...func(*Entry)) Entry {
	e := Entry{Prefix: netip.MustParsePrefix(prefix)}
	for _, change := range changes {
		change(&e)
	}
	return e
}

func onlyNew(e *Entry) { e.Scope = ScopeNew }
func lapsed(e *Entry)  { e.Expires = time.Now().Add(-time.Second) } // longer than a tick of any clock
func longest(e *Entry) { e.Expires = time.Now().Add(24 * time.Hour) }

// prefixes4 are nested prefixes around client4, narrow to wide; prefixes6 around client6.
func nested4() []string {
	return []string{"192.0.2.7/32", "192.0.2.6/31", "192.0.2.0/24", "192.0.0.0/12", "0.0.0.0/0"}
}
func nested6() []string {
	return []string{
		"2001:db8:1:2::7/128", "2001:db8:1:2::/80", "2001:db8:1:2::/64", "2001:db8:1:2::/63",
		"2001:db8::/32", "2000::/3", "::/0",
	}
}

// listCases for nested prefixes around a source, and some beside it.
func listCases(nested, beside []string) []listCase {
	cases := []listCase{{name: "empty", syn: isNew, ack: isEstablished}}
	for i, p := range nested {
		cases = append(cases,
			listCase{"block " + p, nil, []Entry{entry(p)}, isBlocked, isBlocked},
			listCase{"block for a day " + p, nil, []Entry{entry(p, longest)}, isBlocked, isBlocked},
			listCase{"block lapsed " + p, nil, []Entry{entry(p, lapsed)}, isNew, isEstablished},
			listCase{"block new " + p, nil, []Entry{entry(p, onlyNew)}, isBlocked, isEstablished},
			listCase{"allow " + p, []Entry{entry(p)}, nil, isAllowed, isAllowed},
			listCase{"allow lapsed " + p, []Entry{entry(p, lapsed)}, nil, isNew, isEstablished})
		for _, wide := range nested[i+1:] {
			cases = append(cases, pairCases(p, wide)...)
		}
	}
	for _, p := range beside {
		cases = append(cases,
			listCase{"block beside " + p, nil, []Entry{entry(p)}, isNew, isEstablished},
			listCase{"allow beside " + p, []Entry{entry(p)}, nil, isNew, isEstablished})
	}
	return append(cases, manyCases(nested)...)
}

// pairCases: allow wins whichever is longer, and an entry that does not cover the packet hides none
// that does.
func pairCases(narrow, wide string) []listCase {
	name := " " + narrow + " in " + wide
	return []listCase{
		{"allow narrow, block wide" + name, []Entry{entry(narrow)}, []Entry{entry(wide)}, isAllowed, isAllowed},
		{"block narrow, allow wide" + name, []Entry{entry(wide)}, []Entry{entry(narrow)}, isAllowed, isAllowed},
		{"lapsed allow in block" + name, []Entry{entry(narrow, lapsed)}, []Entry{entry(wide)}, isBlocked, isBlocked},
		{"lapsed block in block" + name, nil, []Entry{entry(narrow, lapsed), entry(wide)}, isBlocked, isBlocked},
		{"block in lapsed block" + name, nil, []Entry{entry(narrow), entry(wide, lapsed)}, isBlocked, isBlocked},
		{"new in all" + name, nil, []Entry{entry(narrow, onlyNew), entry(wide)}, isBlocked, isBlocked},
		{"all in new" + name, nil, []Entry{entry(narrow), entry(wide, onlyNew)}, isBlocked, isBlocked},
		{"lapsed all in new" + name, nil, []Entry{entry(narrow, lapsed), entry(wide, onlyNew)}, isBlocked, isEstablished},
		{"new in lapsed all" + name, nil, []Entry{entry(narrow, onlyNew), entry(wide, lapsed)}, isBlocked, isEstablished},
		{"lapsed allow in allow" + name, []Entry{entry(narrow, lapsed), entry(wide)}, []Entry{entry(narrow)}, isAllowed, isAllowed},
	}
}

// manyCases: every prefix at once, all but one of them lapsed or only for new connections.
func manyCases(nested []string) []listCase {
	all := func(change func(*Entry), but int) []Entry {
		var out []Entry
		for i, p := range nested {
			if i == but {
				out = append(out, entry(p))
				continue
			}
			out = append(out, entry(p, change))
		}
		return out
	}
	cases := []listCase{
		{"all lapsed", all(lapsed, -1), all(lapsed, -1), isNew, isEstablished},
		{"all new", nil, all(onlyNew, -1), isBlocked, isEstablished},
	}
	for i, p := range nested {
		cases = append(cases,
			listCase{"all lapsed but " + p, nil, all(lapsed, i), isBlocked, isBlocked},
			listCase{"all new but " + p, nil, all(onlyNew, i), isBlocked, isBlocked},
			listCase{"all allowed lapsed but " + p, all(lapsed, i), all(lapsed, -1), isAllowed, isAllowed})
	}
	return cases
}

func TestLists(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	beside4 := []string{"192.0.2.8/32", "192.0.2.4/31", "192.0.3.0/24", "128.0.0.0/2", "::/0", "2001:db8::/32", "c000:207::/32", "::c000:207/128"}
	beside6 := []string{"2001:db8:1:2::8/128", "2001:db8:1:3::/64", "2001:db8:1:2:8000::/65", "4000::/2", "0.0.0.0/0", "32.1.13.184/32"}
	for _, c := range listCases(nested4(), beside4) {
		t.Run("IPv4/"+c.name, func(t *testing.T) {
			l.t = t
			l.specialisedAndGeneral(func() { l.tryLists(c, syn4(), segment4(tg.ACK)) })
		})
	}
	for _, c := range listCases(nested6(), beside6) {
		t.Run("IPv6/"+c.name, func(t *testing.T) {
			l.t = t
			l.specialisedAndGeneral(func() { l.tryLists(c, syn6(), segment6(tg.ACK)) })
		})
	}
}

func (l *programLab) tryLists(c listCase, syn, ack tg.Packet) {
	l.t.Helper()
	l.add(Allow, c.allow...)
	l.add(Block, c.block...)
	for _, h := range bothHooks {
		l.expect(h, syn.Bytes(), 0, c.syn, "SYN")
		l.expect(h, ack.Bytes(), 0, c.ack, "ACK")
	}
	l.expectNoOther()
	want := uint64(0)
	for _, e := range []end{c.syn, c.ack} {
		if e == isAllowed || e == isBlocked {
			want += uint64(len(bothHooks))
		}
	}
	if got := l.hits(); got != want {
		l.t.Errorf("%d hits of entries, want %d", got, want)
	}
	for _, service := range []string{"", policy.DefaultService} {
		l.take(ledgerKey{sourceOf(syn.Src), service})
	}
	l.clearLists()
}

// hits is how often entries that have not lapsed were hit.
func (l *programLab) hits() (sum uint64) {
	l.t.Helper()
	for list := range l.added {
		entries, err := l.Entries(list)
		must(l.t, err)
		for _, e := range entries {
			sum += e.Hits
		}
	}
	return sum
}

// Every prefix length holds the source and no address outside of it.
func TestEveryPrefixLength(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	l.rules(nil)
	for _, base := range []tg.Packet{segment4(tg.ACK), segment6(tg.ACK)} {
		for bits := 0; bits <= base.Src.BitLen(); bits++ {
			p := netip.PrefixFrom(base.Src, bits).Masked()
			l.add(Block, Entry{Prefix: p})
			for _, h := range bothHooks {
				l.expect(h, base.Bytes(), 0, isBlocked, "inside "+p.String())
				if bits > 0 {
					outside := base.With(func(to *tg.Packet) { to.Src = flipBit(to.Src, bits-1) })
					l.expect(h, outside.Bytes(), 0, isEstablished, "outside "+p.String())
				}
			}
			l.clearLists()
		}
	}
	l.expectNoOther()
}

func flipBit(a netip.Addr, bit int) netip.Addr {
	b := a.AsSlice()
	b[bit/8] ^= 0x80 >> (bit % 8)
	out, _ := netip.AddrFromSlice(b)
	return out
}

// An IPv6 packet may claim to come from ::ffff:192.0.2.7. It is not from 192.0.2.7: neither the
// lists nor the level nor the ledger of the one may touch the other.
func TestMappedSourceIsNotTheIPv4Source(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	mapped := syn6(func(p *tg.Packet) { p.Src = netip.AddrFrom16(client4.Addr().As16()) }).Bytes()
	compatible := netip.MustParseAddr("::192.0.2.7")
	old := syn6(func(p *tg.Packet) { p.Src = compatible }).Bytes()
	for _, h := range bothHooks {
		l.rules(onceADay(1))
		for _, list := range []List{Allow, Block} {
			l.add(list, entry("192.0.2.7/32"), entry("192.0.2.0/24"), entry("0.0.0.0/0"))
		}
		l.expect(h, mapped, 0, isNew, "mapped")
		l.expect(h, mapped, 0, isOver, "mapped again")
		l.expect(h, old, 0, isOver, "compatible, of the same /64")
		l.clearLists()
		l.expect(h, syn4().Bytes(), 0, isNew, "IPv4")
		l.expectLine(ledgerKey{sourceOf(compatible), policy.DefaultService}, ledgerLine{admitted: 1, refused: 2}, "ledger")
		l.expectLine(ledgerKey{sourceOf(client4.Addr()), policy.DefaultService}, ledgerLine{admitted: 1}, "ledger")
		l.emptyMeters()
	}
	l.expectNoOther()
}

// An entry for a source with the bits of an IPv4 address somewhere else is none for that address.
func TestFamiliesNeverMeet(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	l.rules(nil)
	word := binary.BigEndian.Uint32(client4.Addr().AsSlice())
	for _, at := range []int{0, 4, 8, 12} {
		var b [16]byte
		binary.BigEndian.PutUint32(b[at:], word)
		a := netip.AddrFrom16(b)
		l.add(Block, Entry{Prefix: netip.PrefixFrom(a, 128)}, Entry{Prefix: netip.PrefixFrom(a, 64).Masked()}, Entry{Prefix: netip.PrefixFrom(a, 120).Masked()})
		l.expect(hookXDP, segment4(tg.ACK).Bytes(), 0, isEstablished, a.String())
		l.clearLists()
	}
	l.add(Block, entry("0.0.0.0/0"))
	l.expect(hookXDP, segment6(tg.ACK).Bytes(), 0, isEstablished, "0.0.0.0/0")
	l.clearLists()
	l.add(Block, entry("::/0"))
	l.expect(hookXDP, segment4(tg.ACK).Bytes(), 0, isEstablished, "::/0")
	l.expectNoOther()
}
