// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// observedPolicy refuses for every reason and by every action that there is, and observes by itself too. No
// limit gives anything back while the test runs.
const observedPolicy = `
version: 1
strict_parsing: true
sets: {friends: [198.18.3.0/24]}
services:
  - {name: drops, listen: [1001/tcp], limits: [{per: source, new: 1/d, burst: 4}]}
  - {name: resets, listen: [1002/tcp], limits: [{per: source, new: 1/d, burst: 4, over: reset}]}
  - {name: watches, listen: [1003/tcp], limits: [{per: source, new: 1/d, burst: 4, over: observe}]}
  - name: charges
    listen: [1004/tcp]
    allow: [198.18.2.0/24]
    limits:
      - {per: source, new: 1/d, burst: 6, count_rejected: true, except: [friends]}
      - {per: source, new: 1/d, burst: 2, from: [friends]}
      - {per: service, new: 1/d, burst: 50}
  - {name: game, listen: [1005/udp], limits: [{per: source, packets: 1/d, burst: 5}]}
  - {name: bulk, listen: [1006/udp], limits: [{per: source, bytes_in: 2kB/d, burst: 2kB}]}
global: {limits: [{per: source, prefix: {ipv4: 24, ipv6: 48}, new: 1/d, burst: 120}]}
block: [198.18.4.0/24]
`

// observer is one hook's program under one policy, on maps of its own.
type observer struct {
	*Instance
	t       *testing.T
	program *ebpf.Program
	hook    hook
}

func newObserver(t *testing.T, h hook, p *policy.Policy) *observer {
	t.Helper()
	testenv.RequireRoot(t)
	m, err := createMaps()
	if err != nil {
		t.Fatal(err)
	}
	i, err := newInstance(pinDir(t.TempDir()), nil, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.release)
	if err := errors.Join(i.begin(), i.Apply(ApplyOptions{Policy: p})); err != nil {
		t.Fatal(err)
	}
	program, err := m.loadProgram(h, frozen{linkHeader: true, features: i.featuresNeeded()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return &observer{Instance: i, t: t, program: program, hook: h}
}

// judge runs the program on each frame. passed wants every one to be let through as it came.
func (o *observer) judge(frames [][]byte, passed bool) {
	o.t.Helper()
	pass := map[hook]uint32{hookXDP: 2, hookTCX: ^uint32(0)}[o.hook] // XDP_PASS, TC_ACT_UNSPEC
	for n, frame := range frames {
		opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
		verdict, err := o.program.Run(&opts)
		for errors.Is(err, unix.EINTR) {
			verdict, err = o.program.Run(&opts)
		}
		if err != nil {
			o.t.Fatalf("run on frame %d: %v", n, err)
		}
		if passed && (verdict != pass || !bytes.Equal(opts.DataOut, frame)) {
			o.t.Fatalf("frame %d: %x became %x, verdict %d, while only observing", n, frame, opts.DataOut, verdict)
		}
	}
}

// counts is packets by reason and then action, zeros left out.
func (o *observer) counts() map[string]map[string]uint64 {
	o.t.Helper()
	totals, err := o.Totals()
	if err != nil {
		o.t.Fatal(err)
	}
	out := map[string]map[string]uint64{}
	for _, total := range totals {
		maps.DeleteFunc(total.Actions, func(_ string, n uint64) bool { return n == 0 })
		if len(total.Actions) > 0 {
			out[total.Reason] = total.Actions
		}
	}
	return out
}

// asObserved is what must be counted of the same packets once nothing is done any more.
func asObserved(enforced map[string]map[string]uint64) map[string]map[string]uint64 {
	out := map[string]map[string]uint64{}
	for reason, actions := range enforced {
		out[reason] = map[string]uint64{}
		for action, n := range actions {
			if action == "drop" || action == "reset" {
				action = "observe"
			}
			out[reason][action] += n
		}
	}
	return out
}

// observedFrames are packets of every kind from a few sources, in an order drawn from a seed.
func observedFrames(t *testing.T, count int) [][]byte {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("SYNWARD_TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var frames [][]byte
	for range count {
		frames = append(frames, observedFrame(random))
	}
	return frames
}

// observedFrame is of one of six sources in each of five networks, the last of IPv6.
func observedFrame(random *rand.Rand) []byte {
	net, host := random.IntN(5), random.IntN(6)
	src, dst := netip.MustParseAddr(fmt.Sprintf("198.18.%d.%d", net+1, host)), netip.MustParseAddr("10.77.0.1")
	if net == 4 {
		src, dst = netip.MustParseAddr(fmt.Sprintf("fd78:5:0:%d::1", host)), netip.MustParseAddr("fd77::1")
	}
	from, to := netip.AddrPortFrom(src, uint16(1024+random.IntN(60000))), netip.AddrPortFrom(dst, uint16(1000+random.IntN(7)))
	syn := tg.SYN(from, to)
	switch kind := random.IntN(16); {
	case kind < 8:
		return syn.Bytes()
	case kind < 12:
		return tg.Datagram(from, to, make([]byte, random.IntN(700))).Bytes()
	case kind == 12:
		return syn.With(tg.Flags(tg.SYNFlag | tg.FIN)).Bytes()
	case kind == 13:
		return syn.With(tg.Fragmented(8, false)).Bytes()
	case kind == 14:
		return syn.With(func(p *tg.Packet) { p.Version = new(uint8(7)) }).Bytes()
	}
	return tg.Segment(from, to, tg.ACK).Bytes()
}

// The same packets on fresh meters: what `mode: enforce` drops or answers, `mode: observe` counts as observed,
// reason by reason, and lets through; all else is counted the same.
func TestObserveCountsTheSame(t *testing.T) {
	parse := func(mode string) *policy.Policy {
		p, err := policy.Parse("test", []byte(strings.Replace(observedPolicy, "version: 1", "version: 1\nmode: "+mode, 1)), nil)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	frames := observedFrames(t, 6000)
	for _, h := range []hook{hookXDP, hookTCX} {
		t.Run(string(h), func(t *testing.T) {
			enforcing, observer := newObserver(t, h, parse("enforce")), newObserver(t, h, parse("observe"))
			// Which of several limits that are over is named depends on what the same CPU refused before.
			must(t, pinned(cpus(t)[0], func() error {
				enforcing.judge(frames, false)
				observer.judge(frames, true)
				return nil
			}))
			enforced, observed := enforcing.counts(), observer.counts()
			t.Logf("enforced %v", enforced)
			if want := asObserved(enforced); !maps.EqualFunc(observed, want, maps.Equal) {
				t.Errorf("observed %v, want %v", observed, want)
			}
			for _, reason := range []string{"over_new", "over_packets", "over_bytes_in", "blocked", "malformed", "fragment", "unparsed"} {
				if enforced[reason]["drop"] == 0 {
					t.Errorf("nothing was dropped as %s", reason)
				}
			}
			if enforced["over_new"]["reset"] == 0 || enforced["over_new"]["observe"] == 0 {
				t.Errorf("over_new: %v, want some answered and some observed", enforced["over_new"])
			}
			mustAgreeByLimit(t, enforcing, observer)
		})
	}
}

// mustAgreeByLimit wants each service and limit to count the same in both modes.
func mustAgreeByLimit(t *testing.T, enforcing, observer *observer) {
	t.Helper()
	a, err := enforcing.Services()
	b, otherErr := observer.Services()
	if err := errors.Join(err, otherErr); err != nil || len(a) != len(b) {
		t.Fatalf("%d and %d services: %v", len(a), len(b), err)
	}
	for n := range a {
		if a[n].Admitted != b[n].Admitted {
			t.Errorf("service %s admitted %v, and %v while observing", a[n].Name, a[n].Admitted, b[n].Admitted)
		}
		for l := range a[n].Limits {
			if a[n].Limits[l].Over != b[n].Limits[l].Over {
				t.Errorf("limit %d of %s: %v over, and %v while observing", l+1, a[n].Name, a[n].Limits[l].Over, b[n].Limits[l].Over)
			}
			if a[n].Limits[l].Over.Packets == 0 {
				t.Errorf("nothing was over limit %d of %s", l+1, a[n].Name)
			}
		}
	}
}
