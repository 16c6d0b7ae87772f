// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gaissmai/bart"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// oracleLookups is how many addresses are asked for in all.
const oracleLookups = 1_000_000

// listOracle is the lists beside what they ought to hold.
type listOracle struct {
	*programLab
	random *rand.Rand
	frames map[bool][]byte // an ACK by whether it is IPv4
	holds  map[List]*bart.Table[bool]
	// there are those on a list, also those that have ended.
	there map[List][]netip.Prefix
	bases map[bool][]netip.Addr
}

func newListOracle(t *testing.T) *listOracle {
	o := &listOracle{
		programLab: newProgramLab(t, frozen{linkHeader: true}), random: rand.New(rand.NewPCG(testSeed(t), 0)),
		frames: map[bool][]byte{true: segment4(tg.ACK).Bytes(), false: segment6(tg.ACK).Bytes()},
		holds:  map[List]*bart.Table[bool]{Allow: {}, Block: {}}, there: map[List][]netip.Prefix{}, bases: map[bool][]netip.Addr{},
	}
	for range 6 {
		o.bases[true] = append(o.bases[true], o.anywhere(true))
		o.bases[false] = append(o.bases[false], o.anywhere(false))
	}
	return o
}

func (o *listOracle) anywhere(is4 bool) netip.Addr {
	var b [16]byte
	for n := range b {
		b[n] = byte(o.random.Uint32())
	}
	if is4 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b).Unmap().WithZone("")
}

// near is an address that shares the first bits with one of a few, so that prefixes lie in each other.
func (o *listOracle) near(is4 bool) netip.Addr {
	a := o.bases[is4][o.random.IntN(len(o.bases[is4]))]
	for range o.random.IntN(3) {
		a = flipBit(a, o.random.IntN(a.BitLen()))
	}
	return a
}

// prefix is one of at least so many quarters of the whole length, which all lengths are alike.
func (o *listOracle) prefix(quarters int) netip.Prefix {
	a := o.near(o.random.IntN(2) == 0)
	least := a.BitLen() * quarters / 4
	return netip.PrefixFrom(a, least+o.random.IntN(a.BitLen()-least+1)).Masked()
}

// change makes one random change of a list, as several commands would.
func (o *listOracle) change(quarters int) {
	l := []List{Allow, Block, Block}[o.random.IntN(3)]
	p := o.prefix(quarters)
	if n := len(o.there[l]); n > 0 && o.random.IntN(2) == 0 {
		p = o.there[l][o.random.IntN(n)]
	}
	switch o.random.IntN(5) {
	case 0, 1:
		must(o.t, o.Add(l, []Entry{{Prefix: p, Expires: time.Now().Add(time.Hour)}}))
		o.holds[l].Insert(p, true)
		o.there[l] = append(o.there[l], p)
	case 2:
		must(o.t, o.Load(l, []Entry{{Prefix: p}}))
		o.holds[l].Insert(p, true)
		o.there[l] = append(o.there[l], p)
	case 3: // it ends
		must(o.t, o.Add(l, []Entry{{Prefix: p, Expires: time.Now().Add(-time.Second)}}))
		o.holds[l].Delete(p)
		o.there[l] = append(o.there[l], p)
	default:
		_, err := o.Remove(l, []netip.Prefix{p})
		must(o.t, err)
		o.holds[l].Delete(p)
	}
}

// clear takes all off both lists, by removal or by their end.
func (o *listOracle) clear() {
	for l, prefixes := range o.there {
		_, err := o.Remove(l, prefixes)
		must(o.t, err)
		o.holds[l] = &bart.Table[bool]{}
		o.there[l] = nil
	}
}

// ask sends one packet of a random source through the program.
func (o *listOracle) ask(run *ebpf.RunOptions, prog *ebpf.Program) {
	is4 := o.random.IntN(2) == 0
	a := o.near(is4)
	if o.random.IntN(8) == 0 {
		a = o.anywhere(is4)
	}
	run.Data = o.frames[is4]
	at := 14 + 12 // the source in IPv4
	if !is4 {
		at = 14 + 8
	}
	copy(run.Data[at:], a.AsSlice())
	got, err := prog.Run(run)
	must(o.t, err)
	want := uint32(xdpPass)
	if o.holds[Block].Contains(a) && !o.holds[Allow].Contains(a) {
		want = xdpDrop
	}
	if got != want {
		o.t.Fatalf("%s: verdict %d, want %d: blocked %v, allowed %v by the oracle; index word %#x", a, got, want,
			o.holds[Block].Contains(a), o.holds[Allow].Contains(a), o.control.Lists)
	}
}

// After any order of adds, removes, ends and compactions the program says of a million addresses what a routing
// table that is not ours says of them.
func TestListsAgainstARoutingTable(t *testing.T) {
	o := newListOracle(t)
	prog := o.program(hookXDP)
	run := &ebpf.RunOptions{}
	const rounds = 200
	lookups, blocked := oracleLookups, 0
	if os.Getenv(vmVariable) != "" {
		lookups /= 10
	}
	for round := range rounds {
		quarters := round % 4
		for range 40 {
			o.change(quarters)
			for range lookups / rounds / 50 {
				o.ask(run, prog)
			}
		}
		if round%3 == 0 {
			_, err := o.Compact()
			must(t, err)
		}
		for range lookups / rounds / 5 {
			o.ask(run, prog)
		}
		if round%5 == 4 {
			blocked += o.holds[Block].Size()
			o.clear()
			if round%10 == 9 {
				_, err := o.Compact()
				must(t, err)
				if word := o.control.Lists; word&(1<<limiterListIndexBitsINDEX_HOLDS_BITS-1) != 0 {
					t.Fatalf("the lists are empty, and the word says %#x", word)
				}
			}
		}
	}
	t.Logf("%d entries were blocked at the ends of rounds", blocked)
}
