// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// tally is packets by "reason action".
type tally map[string]uint64

func tallyOf(t *testing.T, i *datapath.Instance) tally {
	t.Helper()
	totals, err := i.Totals()
	if err != nil {
		t.Fatal(err)
	}
	out := tally{}
	for _, total := range totals {
		for action, n := range total.Actions {
			if n > 0 && total.Reason != "self_test" {
				out[total.Reason+" "+action] = n
			}
		}
	}
	return out
}

func (after tally) minus(before tally) tally {
	out := tally{}
	for end, n := range after {
		if n > before[end] {
			out[end] = n - before[end]
		}
	}
	return out
}

// fate is how one frame of a shape ends, as "reason action": from a source under its limit, over it,
// and blocked.
type fate [3]string

// The states of a source, which index a fate.
const (
	under = iota
	over
	blocked
)

var stateNames = [...]string{"under the limit", "over the limit", "blocked"}

var (
	isJudged = fate{"under_limit pass", "over_new drop", "blocked drop"}
	isLater  = fate{"fragment pass", "fragment pass", "blocked drop"}
	// isDeep ends before its source is known.
	isDeep = fate{"unparsed pass", "unparsed pass", "unparsed pass"}
)

func isRefused(reason string) fate {
	return fate{reason + " drop", reason + " drop", reason + " drop"}
}

// shape is one way to write a SYN.
type shape struct {
	name string
	// frames makes the SYN's frames out of a plain one.
	frames func(syn tg.Packet) []tg.Packet
	// answered: a kernel without synward answers it with a SYN-ACK.
	answered bool
	// capped: kernels from 7 on may take fewer headers than that, and 7.3 does.
	capped bool
	// fates has one for each frame. tc replaces it in TC mode, where the kernel has taken the first VLAN
	// tag off.
	fates, tc []fate
}

func (s shape) fatesIn(mode datapath.Mode) []fate {
	if mode == datapath.ModeTC && s.tc != nil {
		return s.tc
	}
	return s.fates
}

// passes: a source in this state gets the whole shape through to the kernel.
func (s shape) passes(mode datapath.Mode, state int) bool {
	return !slices.ContainsFunc(s.fatesIn(mode), func(f fate) bool { return f[state][len(f[state])-4:] != "pass" })
}

// tagged shapes need an Ethernet header.
func (s shape) tagged() bool {
	syn := tg.SYN(netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2"))
	return len(s.frames(syn)[0].VLANs) > 0
}

func one(with ...tg.Mutation) func(tg.Packet) []tg.Packet {
	return func(syn tg.Packet) []tg.Packet { return []tg.Packet{syn.With(with...)} }
}

func split(n int) func(tg.Packet) []tg.Packet {
	return func(syn tg.Packet) []tg.Packet {
		first, second := syn.Split(n)
		return []tg.Packet{first, second}
	}
}

func shapesOfBoth() []shape {
	fresh, malformed := []fate{isJudged}, []fate{isRefused("malformed")}
	priority := func(tpids ...uint16) tg.Mutation {
		return func(p *tg.Packet) {
			for _, tpid := range tpids {
				p.VLANs = append(p.VLANs, tg.VLAN{TPID: tpid})
			}
		}
	}
	const q, ad = tg.TPID8021Q, tg.TPID8021AD
	data := func(p *tg.Packet) { p.Payload = make([]byte, 100) }
	return []shape{
		{name: "plain", frames: one(), answered: true, fates: fresh},
		{name: "without options", frames: one(func(p *tg.Packet) { p.TCPOptions = nil }), answered: true, fates: fresh},
		{name: "with data", frames: one(data), answered: true, fates: fresh},
		{name: "padded", frames: one(func(p *tg.Packet) { p.Trailer = 40 }), answered: true, fates: fresh},
		{name: "PSH", frames: one(tg.Flags(tg.SYNFlag | tg.PSH)), answered: true, fates: fresh},
		{name: "URG", frames: one(tg.Flags(tg.SYNFlag | tg.URG)), answered: true, fates: fresh},
		{name: "ECE", frames: one(tg.Flags(tg.SYNFlag | tg.ECE)), answered: true, fates: fresh},
		{name: "CWR", frames: one(tg.Flags(tg.SYNFlag | tg.CWR)), answered: true, fates: fresh},
		{name: "PSH URG ECE CWR", frames: one(tg.Flags(tg.SYNFlag | tg.PSH | tg.URG | tg.ECE | tg.CWR)), answered: true, fates: fresh},
		{name: "FIN", frames: one(tg.Flags(tg.SYNFlag | tg.FIN)), fates: malformed},
		{name: "RST", frames: one(tg.Flags(tg.SYNFlag | tg.RST)), fates: malformed},
		{name: "priority tag", frames: one(priority(q)), answered: true, fates: fresh},
		{name: "802.1ad priority tag", frames: one(priority(ad)), answered: true, fates: fresh},
		{name: "2 priority tags", frames: one(priority(ad, q)), answered: true, fates: fresh},
		{name: "3 priority tags", frames: one(priority(q, q, q)), answered: true, fates: malformed, tc: fresh},
		{name: "4 priority tags", frames: one(priority(q, q, q, q)), answered: true, fates: malformed},
		{name: "2 fragments", frames: split(24), answered: true, fates: []fate{isJudged, isLater}},
		{
			name: "2 fragments, last first", answered: true, fates: []fate{isLater, isJudged},
			frames: func(syn tg.Packet) []tg.Packet {
				first, second := syn.Split(24)
				return []tg.Packet{second, first}
			},
		},
	}
}

func shapes4() []shape {
	evasive := isRefused("fragment")
	options := func(n int) tg.Mutation { return func(p *tg.Packet) { p.IPv4Options = n } }
	length0 := func(p *tg.Packet) { p.IPLength = new(uint16) }
	return append(shapesOfBoth(),
		shape{name: "IHL 6", frames: one(options(4)), answered: true, fates: []fate{isJudged}},
		shape{name: "IHL 15", frames: one(options(40)), answered: true, fates: []fate{isJudged}},
		shape{name: "IHL 15 in 2 fragments", frames: func(syn tg.Packet) []tg.Packet { return split(24)(syn.With(options(40))) },
			answered: true, fates: []fate{isJudged, isLater}},
		shape{name: "first fragment of 8 bytes", frames: split(8), answered: true, fates: []fate{evasive, evasive}},
		shape{name: "first fragment of 16 bytes", frames: split(16), answered: true, fates: []fate{evasive, isLater}},
		shape{name: "total length 0", frames: one(length0), fates: []fate{isJudged}},
	)
}

func shapes6() []shape {
	behind := func(n int, proto uint8) func(tg.Packet) []tg.Packet {
		return one(tg.Behind(n, tg.ExtHeader{Proto: proto}))
	}
	evasive, malformed := isRefused("fragment"), isRefused("malformed")
	length0 := func(p *tg.Packet) { p.IPLength = new(uint16) }
	padN := tg.Behind(1, tg.ExtHeader{Proto: tg.HopByHop})
	return append(shapesOfBoth(),
		shape{name: "1 destination options", frames: behind(1, tg.DestOpts), answered: true, fates: []fate{isJudged}},
		shape{name: "8 destination options", frames: behind(8, tg.DestOpts), answered: true, fates: []fate{isJudged}},
		shape{name: "9 destination options", frames: behind(9, tg.DestOpts), answered: true, fates: []fate{malformed}},
		shape{name: "40 destination options", frames: behind(40, tg.DestOpts), answered: true, capped: true, fates: []fate{malformed}},
		shape{name: "100 destination options", frames: behind(100, tg.DestOpts), answered: true, capped: true, fates: []fate{malformed}},
		shape{name: "hop-by-hop", frames: behind(1, tg.HopByHop), answered: true, fates: []fate{isJudged}},
		shape{name: "routing", frames: behind(1, tg.Routing), answered: true, fates: []fate{isJudged}},
		shape{name: "AH without an association", frames: behind(1, tg.AH), fates: []fate{isJudged}},
		shape{name: "mobility", frames: behind(1, tg.Mobility), fates: []fate{isJudged}},
		shape{name: "atomic fragment", frames: behind(1, tg.FragmentHdr), answered: true, fates: []fate{isJudged}},
		shape{name: "8 atomic fragments", frames: behind(8, tg.FragmentHdr), fates: []fate{isJudged}},
		shape{name: "length 0 behind hop-by-hop", frames: one(length0, padN), answered: true, fates: []fate{isJudged}},
		shape{name: "length 0", frames: one(length0), fates: []fate{isJudged}},
		shape{name: "first fragment of 8 bytes", frames: split(8), fates: []fate{evasive, evasive}},
		shape{name: "first fragment without the chain", frames: cutChain, fates: []fate{malformed, isLater}},
	)
}

// cutChain is a SYN behind destination options of 16 bytes, of which the first fragment has 8.
func cutChain(syn tg.Packet) []tg.Packet {
	whole := syn.With(func(p *tg.Packet) {
		p.Transport = append([]byte{tg.TCP, 1, 1, 4, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0}, tcpBytes(syn)...)
		p.NextHeader = new(uint8(tg.DestOpts))
	})
	return split(8)(whole)
}

// tcpBytes is the TCP header of a plain packet.
func tcpBytes(syn tg.Packet) []byte {
	frame := syn.With(tg.WithoutLink()).Bytes()
	if syn.Src.Is6() {
		return frame[40:]
	}
	return frame[20:]
}

// TestBareKernelAnswers is the truth that the fates are held against: which shapes an attacker has.
func TestBareKernelAnswers(t *testing.T) {
	w := newWire(newBench(t, testenv.PairOptions{}))
	eachShape(t, func(t *testing.T, ip6 bool, s shape) {
		outer := w.t
		w.t = t
		defer func() { w.t = outer }()
		source := w.source(ip6, limitedNets)
		answered := w.answersTo(ip6, s.frames(w.syn(ip6, source))...)[source]
		if s.capped && testenv.KernelMajor(t) >= 7 {
			t.Logf("a kernel without synward answers: %v", answered)
		} else if answered != s.answered {
			t.Errorf("a kernel without synward answers: %v, want %v", answered, s.answered)
		}
	})
}

func eachShape(t *testing.T, test func(t *testing.T, ip6 bool, s shape)) {
	for _, s := range append(shapes4(), tagShapes()...) {
		t.Run("IPv4 "+s.name, func(t *testing.T) { test(t, false, s) })
	}
	for _, s := range append(shapes6(), tagShapes()...) {
		t.Run("IPv6 "+s.name, func(t *testing.T) { test(t, true, s) })
	}
}

// None of the shapes slips past the limit or the lists, and all are counted as what they are. A source
// under its limit gets the answer that it would get without synward.
func TestNoShapeSlipsPast(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		b := newBench(t, testenv.PairOptions{})
		newWire(b).tryAll(mode)
	})
}

// On a device without link headers the same holds, and there are no tags.
func TestNoShapeSlipsPastATunDevice(t *testing.T) {
	newTunWire(newBench(t, testenv.PairOptions{})).tryAll(datapath.ModeTC)
}

// tryAll attaches and tries every shape in every state.
func (w *wire) tryAll(mode datapath.Mode) {
	w.t.Helper()
	w.attach(mode, rate(1, time.Hour, 1))
	w.block(datapath.Entry{Prefix: blockedNets[0]}, datapath.Entry{Prefix: blockedNets[1]})
	w.allow(allowedNets[0].String(), allowedNets[1].String())
	var i *datapath.Instance
	err := w.Server.Do(func() (err error) { i, err = datapath.Open(w.pinDir); return err })
	if err != nil {
		w.t.Fatal(err)
	}
	defer i.Close()
	w.counted = tallyOf(w.t, i)
	eachShape(w.t, func(t *testing.T, ip6 bool, s shape) {
		outer := w.t
		w.t = t
		defer func() { w.t = outer }()
		if w.tun != nil && s.tagged() {
			return
		}
		w.try(i, mode, ip6, s)
	})
}

// try sends one shape from a source in each state, all at once, for to read the counters takes longer than
// all else. Each source gets the answer that it should, and the counters move by the sum of the fates.
func (w *wire) try(i *datapath.Instance, mode datapath.Mode, ip6 bool, s shape) {
	w.t.Helper()
	var packets []tg.Packet
	var sources [len(stateNames)]netip.AddrPort
	want := tally{"allowed pass": 1, "under_limit pass": 1}
	for state := range sources {
		nets := limitedNets
		if state == blocked {
			nets = blockedNets
		}
		sources[state] = w.source(ip6, nets)
		if state == over {
			first := netip.AddrPortFrom(sources[over].Addr(), sources[over].Port()+1)
			packets = append(packets, w.syn(ip6, first))
		}
		packets = append(packets, s.frames(w.syn(ip6, sources[state]))...)
		for _, f := range s.fatesIn(mode) {
			want[f[state]]++
		}
	}
	answers := w.answersTo(ip6, packets...)
	now := tallyOf(w.t, i)
	if got := now.minus(w.counted); !maps.Equal(got, want) {
		w.t.Errorf("counted %v, want %v", got, want)
	}
	w.counted = now
	for state, source := range sources {
		if wanted := s.answered && s.passes(mode, state); answers[source] != wanted {
			w.t.Errorf("%s: answered: %v, want %v", stateNames[state], answers[source], wanted)
		}
	}
}
