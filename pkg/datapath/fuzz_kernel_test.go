// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// firing sends what passes the program to a kernel and looks at what that answers. Every sender has a
// port of its own; a port is used again after two ages.
type firing struct {
	*fuzzWire
	lab     *fuzzLab
	g       *generator
	fired   int
	born    time.Time           // when this age began
	made    map[uint16][]string // frames that were sent, by port
	counted [2]map[tuple]int    // new connections that were counted, in this age and the one before
	total   map[string]int
}

// An age is this many senders, and longer than a fragment waits for others.
const (
	agePorts = 25000
	ageLeast = 1500 * time.Millisecond
)

// What passes uncounted, the kernel must not answer: it is sent frames that pass the program, and each
// of its SYN-ACKs must go to an address and port from which the program has counted a new connection to
// the address and port that answers.
func TestPassedUncountedIsNotAnswered(t *testing.T) {
	w := newFuzzWire(t)
	g := newGenerator(fuzzSeed(t))
	g.hiding = true
	w.aim(g)
	v := &firing{fuzzWire: w, lab: newFuzzLab(t), g: g, made: map[uint16][]string{}, total: map[string]int{}}
	begin, limit := time.Now(), fuzzTime(t)
	for time.Since(begin) < limit && !t.Failed() {
		for range 512 {
			v.fire()
		}
		v.check()
	}
	for _, what := range slices.Sorted(maps.Keys(v.total)) {
		t.Logf("%9d %s", v.total[what], what)
	}
	for _, s := range w.servers {
		if n := s.Total(); n > 0 {
			t.Errorf("%d connections were made by clients that never acknowledge", n)
		}
	}
	for _, what := range []string{"answered 4", "answered 6", "sent in fragments", "sent uncounted"} {
		if v.total[what] < 10 {
			t.Errorf("%d %s: the test shows nothing", v.total[what], what)
		}
	}
}

// fire sends what one sender makes, with a port of its own: a single frame, or a SYN in pieces. A frame
// that the program drops is not sent.
func (v *firing) fire() {
	v.t.Helper()
	port := uint16(5000 + v.fired%(2*agePorts))
	if v.fired%agePorts == 0 && time.Since(v.born) > ageLeast {
		v.counted, v.born = [2]map[tuple]int{{}, v.counted[0]}, time.Now()
	}
	v.fired++
	v.made[port] = nil
	for is4, a := range v.g.client {
		v.g.client[is4] = netip.AddrPortFrom(a.Addr(), port)
	}
	frames := [][]byte{v.g.frame()}
	if v.g.oneIn(3) {
		frames = v.g.pieces()
		v.total["sent in fragments"]++
	}
	for _, frame := range frames {
		if len(frame) <= longestSent {
			v.judge(mend(frame), port)
		}
	}
}

// judge asks the program, and sends what it passes at both hooks.
func (v *firing) judge(frame []byte, port uint16) {
	v.t.Helper()
	want, err := v.lab.compare(frame, 0)
	if err != nil {
		v.t.Errorf("by the reference %s: %v\n%s", want.why, err, reproduction(frame, 0))
	}
	if want.refused {
		v.total["refused"]++
		return
	}
	if want.isNew() {
		v.counted[0][want.tuple(frame)]++
		v.total["sent and counted as new"]++
	} else {
		v.total["sent uncounted"]++
		v.total["sent uncounted: "+want.why]++
	}
	v.made[port] = append(v.made[port], fmt.Sprintf("%s: %x", want.why, frame))
	v.send(frame)
}

func (v *firing) check() {
	v.t.Helper()
	for asked, n := range v.answers() {
		v.total[fmt.Sprintf("answered %d", map[bool]int{true: 4, false: 6}[asked.from.Addr().Is4()])] += n
		if counted := v.counted[0][asked] + v.counted[1][asked]; n > counted {
			v.t.Errorf("the kernel answers %s %d times and the program counted %d new connections; sent with this port in them:\n%s",
				asked.from, n, counted, v.suspects(asked))
		}
	}
}

// suspects are the frames that were made with the port that was answered, or that hold it anywhere.
func (v *firing) suspects(asked tuple) string {
	holds := fmt.Sprintf("%04x", asked.from.Port())
	var out []string
	for port, frames := range v.made {
		if port == asked.from.Port() || slices.ContainsFunc(frames, func(f string) bool { return strings.Contains(f, holds) }) {
			out = append(out, frames...)
		}
	}
	return strings.Join(out, "\n")
}

// pieces is a SYN, behind any headers, in fragments that may overlap, come in any order, lie about what
// they hold, and be broken in one place.
func (g *generator) pieces() [][]byte {
	p := g.goodSYN()
	whole := p.Bytes()[14:]
	proto, body := whole[9], whole[20:]
	if p.Src.Is6() {
		proto, body = whole[6], whole[40:]
	}
	id := uint32(g.IntN(1 << 16))
	var frames [][]byte
	for at := 0; at < len(body); {
		end := min(len(body), at+8*(1+g.IntN(1+len(body)/8)))
		frames = append(frames, g.piece(p, proto, body, at, end, id))
		at = end
		if g.oneIn(4) { // over what was there
			at = max(0, at-8*(1+g.IntN(3)))
		}
	}
	if g.oneIn(2) {
		g.Shuffle(len(frames), func(a, b int) { frames[a], frames[b] = frames[b], frames[a] })
	}
	if g.oneIn(4) {
		at := g.IntN(len(frames))
		frames[at] = g.mutateBytes(frames[at])
	}
	return frames
}

// goodSYN is a SYN, perhaps with data, in IPv6 perhaps behind headers that Linux goes through.
func (g *generator) goodSYN() tg.Packet {
	is4 := g.oneIn(2)
	p := tg.SYN(g.client[is4], g.server[is4]).With(g.macs)
	if g.oneIn(2) {
		p.TCPOptions = tg.NOP(4 * g.IntN(11))
	}
	p.Payload = g.bytes(pick(g, 8, 64))
	for range g.IntN(4) {
		p.Ext = append(p.Ext, pick(g, tg.ExtHeader{Proto: tg.DestOpts}, tg.ExtHeader{Proto: tg.DestOpts, Len: 32}, tg.ExtHeader{Proto: tg.FragmentHdr}))
	}
	return p
}

// piece is the fragment that holds body[at:end].
func (g *generator) piece(p tg.Packet, proto uint8, body []byte, at, end int, id uint32) []byte {
	return p.With(func(p *tg.Packet) {
		p.Ext, p.Proto, p.Transport = nil, proto, slices.Clone(body[at:end])
		p.Fragment = &tg.Fragment{Offset: uint16(at), More: end < len(body), ID: id}
		if g.oneIn(8) {
			p.Fragment.More = !p.Fragment.More
		}
		if g.oneIn(8) {
			p.Proto = g.proto()
		}
		if g.oneIn(8) {
			p.Ext = append(p.Ext, tg.ExtHeader{Proto: tg.DestOpts})
		}
	}).Bytes()
}
