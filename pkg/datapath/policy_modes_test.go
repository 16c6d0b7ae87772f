// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// rateMode is one of the ways in which a load balancer limits rates: whose count it is, and whether each
// service has its own or all share one.
type rateMode struct {
	per    policy.Per
	global bool
}

func rateModes() []rateMode {
	return []rateMode{
		{policy.PerService, false},
		{policy.PerSource, false}, {policy.PerDestination, false}, {policy.PerSourceDestination, false},
		{policy.PerSource, true}, {policy.PerDestination, true}, {policy.PerSourceDestination, true},
	}
}

// modePolicy is two services with the limit, each its own or one for both. The rate is so low that time
// plays no part: a key gets its burst, and no more.
func modePolicy(m rateMode, prefix policy.PrefixLengths, burst uint64) *policy.Policy {
	limit := policy.Limit{Kind: policy.KindNew, Per: m.per, Prefix: prefix, Rate: policy.Rate{Count: 1, Period: 1000 * policy.Day}, Burst: burst}
	if m.per == policy.PerService {
		limit.Prefix = policy.PrefixLengths{}
	}
	p := &policy.Policy{OnTableFull: policy.TableFullDrop}
	for n, port := range []uint16{80, 81} {
		s := policy.Service{Name: fmt.Sprintf("s%d-%d-%d", n, prefix.IPv4, prefix.IPv6), Listen: []policy.Listen{{Proto: policy.TCP, First: port, Last: port}}}
		if !m.global {
			s.Limits = []policy.Limit{limit}
		}
		p.Services = append(p.Services, s)
	}
	if m.global {
		p.Global.Limits = []policy.Limit{limit}
	}
	p.Normalize()
	return p
}

// key is by what the mode counts a packet, worked out from the words of the policy alone.
func (m rateMode) key(prefix policy.PrefixLengths, src, dst netip.AddrPort) string {
	cut := func(a netip.Addr) string {
		bits := prefix.IPv6
		if a.Is4() {
			bits = prefix.IPv4
		}
		return netip.PrefixFrom(a, bits).Masked().String()
	}
	key := ""
	switch m.per {
	case policy.PerSource:
		key = cut(src.Addr())
	case policy.PerDestination:
		key = cut(dst.Addr())
	case policy.PerSourceDestination:
		key = cut(src.Addr()) + " to " + dst.Addr().String()
	}
	if !m.global {
		key += fmt.Sprint(" at ", dst.Port())
	}
	return key
}

// modeAddrs are addresses of both families that differ in their last bits, their /24 or /64, their /48.
func modeAddrs(network string) []netip.Addr {
	var out []netip.Addr
	for _, third := range []int{1, 2} {
		for _, last := range []int{1, 2} {
			out = append(out, netip.MustParseAddr(fmt.Sprintf("%s.%d.%d", network, third, last)))
			for _, hextet := range []int{1, 2} {
				out = append(out, netip.MustParseAddr(fmt.Sprintf("2001:db8:%x:%d:%x::%d", network[0], third, hextet, last)))
			}
		}
	}
	return append(out, netip.MustParseAddr("2001:db8:ffff::1"))
}

// The seven modes of a rate limit, under masks of both families, against a count by key.
func TestRateModes(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	random := rand.New(rand.NewPCG(testSeed(t), 0))
	const burst = 3
	for _, m := range rateModes() {
		for _, prefix := range []policy.PrefixLengths{{IPv4: 32, IPv6: 128}, {IPv4: 32, IPv6: 64}, {IPv4: 24, IPv6: 64}, {IPv4: 24, IPv6: 48}} {
			name := fmt.Sprintf("%s global=%v /%d /%d", m.per, m.global, prefix.IPv4, prefix.IPv6)
			t.Run(name, func(t *testing.T) {
				l.t = t
				must(t, l.Apply(ApplyOptions{Policy: modePolicy(m, prefix, burst)}))
				l.tryMode(m, prefix, burst, random)
			})
		}
	}
}

func (l *programLab) tryMode(m rateMode, prefix policy.PrefixLengths, burst int, random *rand.Rand) {
	l.t.Helper()
	sources, destinations := modeAddrs("198.51"), modeAddrs("192.0")
	admitted := map[string]int{}
	for range 400 {
		src := netip.AddrPortFrom(sources[random.IntN(len(sources))], uint16(1024+random.IntN(60000)))
		dst := netip.AddrPortFrom(destinations[random.IntN(len(destinations))], uint16(80+random.IntN(2)))
		if src.Addr().Is4() != dst.Addr().Is4() {
			continue
		}
		key := m.key(prefix, src, dst)
		h := bothHooks[random.IntN(2)]
		l.freshBudget(h)
		dropped := l.run(h, tg.SYN(src, dst).Bytes(), nil).verdict == dropped(limiterReasonREASON_OVER_NEW).verdict(h)
		if dropped != (admitted[key] >= burst) {
			l.t.Fatalf("%s to %s, %q, after %d admitted: dropped %v", src, dst, key, admitted[key], dropped)
		}
		if !dropped {
			admitted[key]++
		}
	}
}

// All limits of a packet are looked at first: who is refused by the last of eight, or by a global one, is
// charged by none.
func TestRefusedIsChargedNowhere(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, global := range []bool{false, true} {
		limits := make([]policy.Limit, 8)
		for n := range limits {
			limits[n] = policy.Limit{Kind: policy.KindNew, Per: policy.PerSource, Rate: policy.Rate{Count: 1, Period: policy.Day * time.Duration(n+1)}, Burst: 10}
		}
		last := &limits[7]
		p := &policy.Policy{Services: []policy.Service{{
			Name: fmt.Sprintf("web-%v", global), Listen: []policy.Listen{{Proto: policy.TCP, First: 443, Last: 443}}, Limits: limits,
		}}}
		if global {
			p.Global.Limits = []policy.Limit{limits[7]}
			last = &p.Global.Limits[0]
		}
		last.Burst = 2
		p.Normalize()
		must(t, l.Apply(ApplyOptions{Policy: p}))
		for n := range 30 {
			want := isOver
			if n < 2 {
				want = isNew
			}
			l.expect(hookXDP, syn4().Bytes(), 0, want, fmt.Sprintf("global=%v SYN %d", global, n))
		}
		last.Burst = 10
		must(t, l.Apply(ApplyOptions{Policy: p}))
		for n := range 9 {
			want := isOver
			if n < 8 {
				want = isNew
			}
			l.expect(hookXDP, syn4().Bytes(), 0, want, fmt.Sprintf("global=%v SYN %d after the last limit had become wider", global, n))
		}
	}
}
