// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gaissmai/bart"

	"github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// What the lists hold while their cost is measured.
const (
	crowdHosts    = 1_000_000
	crowdPrefixes = 100_000
	drawnSources  = 1 << 20
)

// crowdedLists is a block list of random hosts and prefixes, and which addresses it covers.
type crowdedLists struct {
	random   *rand.Rand
	hosts    []netip.Addr
	prefixes []netip.Prefix
	covers   bart.Lite
	isHost   map[netip.Addr]bool
}

// newCrowdedLists draws prefixes as long as those of feeds are: half of them are /24, the others /16 to /31.
func newCrowdedLists(seed uint64) *crowdedLists {
	c := &crowdedLists{random: rand.New(rand.NewPCG(seed, 1)), isHost: map[netip.Addr]bool{}}
	for len(c.hosts) < crowdHosts {
		if a := c.addr(); !c.isHost[a] {
			c.isHost[a] = true
			c.hosts = append(c.hosts, a)
		}
	}
	for len(c.prefixes) < crowdPrefixes {
		bits := 24
		if c.random.IntN(2) == 0 {
			bits = 16 + c.random.IntN(16)
		}
		p := netip.PrefixFrom(c.addr(), bits).Masked()
		if !c.covers.Get(p) {
			c.covers.Insert(p)
			c.prefixes = append(c.prefixes, p)
		}
	}
	return c
}

func (c *crowdedLists) addr() netip.Addr {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], c.random.Uint32())
	return netip.AddrFrom4(b)
}

func (c *crowdedLists) load(i *Instance) error {
	var entries []Entry
	for _, a := range c.hosts {
		entries = append(entries, Entry{Prefix: netip.PrefixFrom(a, 32)})
	}
	for _, p := range c.prefixes {
		entries = append(entries, Entry{Prefix: p})
	}
	return i.Load(Block, entries)
}

func (c *crowdedLists) unlisted() netip.Addr {
	for {
		if a := c.addr(); !c.isHost[a] && !c.covers.Contains(a) {
			return a
		}
	}
}

func (c *crowdedLists) host() netip.Addr { return c.hosts[c.random.IntN(len(c.hosts))] }

// long is an address under a prefix of 25 bits or more.
func (c *crowdedLists) long() netip.Addr {
	for {
		p := c.prefixes[c.random.IntN(len(c.prefixes))]
		if p.Bits() > 24 {
			b := p.Addr().As4()
			host := binary.BigEndian.Uint32(b[:]) | c.random.Uint32()>>p.Bits()
			binary.BigEndian.PutUint32(b[:], host)
			if a := netip.AddrFrom4(b); !c.isHost[a] {
				return a
			}
		}
	}
}

// drawInto fills the bench's table of sources.
func drawInto(b *testing.B, coll *ebpf.Collection, draw func() netip.Addr) {
	keys, values := make([]uint32, drawnSources), make([]uint32, drawnSources)
	for n := range keys {
		a := draw().As4()
		keys[n], values[n] = uint32(n), binary.NativeEndian.Uint32(a[:])
	}
	if _, err := coll.Maps["drawn"].BatchUpdate(keys, values, nil); err != nil {
		b.Fatal(err)
	}
}

// listPath is what packets of certain sources cost beside a floor, or beside the same with empty lists.
type listPath struct {
	name   string
	frame  []byte
	draw   func(*crowdedLists) netip.Addr
	crowd  bool // the lists are loaded; else they hold what few adds
	few    []Entry
	goal   float64 // x floor
	unlike float64 // x the same with empty lists; 0: not held against it
}

func listPaths() []listPath {
	src, dst := netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("192.0.2.1:443")
	ack := trafficgen.Segment(src, dst, trafficgen.ACK).Bytes()
	hot := func(c *crowdedLists) netip.Addr { return c.hosts[0] }
	one := []Entry{{Prefix: netip.MustParsePrefix("198.51.100.7/32")}}
	return []listPath{
		{name: "unlisted sources", frame: ack, draw: (*crowdedLists).unlisted, crowd: true, goal: 1.3, unlike: 1.15},
		{name: "one unlisted source", frame: ack, draw: func(*crowdedLists) netip.Addr { return src.Addr() }, crowd: true, goal: 1.3, unlike: 1.15},
		{name: "one blocked host", frame: ack, draw: hot, crowd: true, goal: 3},
		{name: "blocked hosts", frame: ack, draw: (*crowdedLists).host, crowd: true, goal: 3},
		{name: "sources under long prefixes", frame: ack, draw: (*crowdedLists).long, crowd: true, goal: 12},
		{name: "the only blocked host", frame: ack, draw: func(*crowdedLists) netip.Addr { return src.Addr() }, few: one, goal: 3},
	}
}

// BenchmarkCostOfLists measures what packets cost beside a floor that draws the same sources, with a million
// hosts and a hundred thousand prefixes loaded. It fails as BenchmarkCost does.
func BenchmarkCostOfLists(b *testing.B) {
	for _, path := range listPaths() {
		b.Run(path.name, func(b *testing.B) {
			c := newCrowdedLists(7)
			draw := func() netip.Addr { return path.draw(c) }
			empty := listBench(b, draw, func(*Instance) error { return nil })
			loaded := listBench(b, draw, func(i *Instance) error {
				if !path.crowd {
					return i.Add(Block, path.few)
				}
				return c.load(i)
			})
			for range b.N {
				path.measure(b, empty, loaded)
			}
		})
	}
}

func listBench(b *testing.B, draw func() netip.Addr, prepare func(*Instance) error) map[string]*ebpf.Program {
	coll := costBenchCollection(b, func(i *Instance) error {
		limit := &policy.NewLimit{Rate: policy.Rate{Count: 50, Period: time.Second}, Burst: 100}
		return errors.Join(i.SetLimit(limit), prepare(i))
	})
	drawInto(b, coll, draw)
	return coll.Programs
}

func (path listPath) measure(b *testing.B, empty, loaded map[string]*ebpf.Program) {
	over, unlike := make([]float64, costRounds), make([]float64, costRounds)
	floors, costs := make([]float64, costRounds), make([]float64, costRounds)
	for round := range costRounds {
		floors[round] = nsPerPacket(b, loaded["floor_drawn"], path.frame)
		costs[round] = nsPerPacket(b, loaded["journey_drawn"], path.frame)
		over[round] = costs[round] / floors[round]
		unlike[round] = costs[round] / nsPerPacket(b, empty["journey_drawn"], path.frame)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(floors), "floor-ns")
	b.ReportMetric(median(costs), "path-ns")
	b.Logf("floor %.1f ns, path %.1f ns", median(floors), median(costs))
	path.hold(b, over, "floor", path.goal)
	path.hold(b, unlike, "empty", path.unlike)
}

// hold reports a ratio, and fails where it lies surely above its goal.
func (path listPath) hold(b *testing.B, ratios []float64, beside string, goal float64) {
	low, mid, high := medianInterval(ratios)
	b.ReportMetric(mid, "x-"+beside)
	b.ReportMetric(high, "x-"+beside+"-high")
	b.Logf("%.2f x %s (95 %%: %.2f to %.2f)", mid, beside, low, high)
	if goal > 0 && low > goal {
		b.Errorf("%s cost %.2f x %s (95 %%: %.2f to %.2f), the goal is %.2f", path.name, mid, beside, low, high, goal)
	}
}

func median(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}
