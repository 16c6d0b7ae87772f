// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

var isOverSent = dropped(limiterReasonREASON_OVER_BYTES_OUT)

// sentContext is a struct __sk_buff as the kernel hands it to egress: these bytes on the wire.
func sentContext(wire, segments uint32) []byte {
	context := make([]byte, 192)
	binary.NativeEndian.PutUint32(context[160:], wire) // wire_len
	binary.NativeEndian.PutUint32(context[164:], segments)
	return context
}

// back is the answer to a packet: what of it counts at egress.
func back(p tg.Packet) tg.Packet {
	p.Src, p.Dst, p.SrcPort, p.DstPort = p.Dst, p.Src, p.DstPort, p.SrcPort
	if p.Proto == tg.TCP {
		p.TCPFlags = tg.ACK
	}
	return p
}

// send has the program at egress judge the answer to a packet that is so long on the wire (0: as long as it is).
// Nothing is dropped there, changed or counted by reason.
func (l *programLab) send(p tg.Packet, wire uint32) {
	l.t.Helper()
	frame := back(p).Bytes()
	j := l.run(hookTCXOut, frame, sentContext(wire, 0))
	if j.verdict != tcUnspec || !bytes.Equal(j.out, frame) {
		l.t.Errorf("egress: verdict %d, %x to %x", int32(j.verdict), frame, j.out)
	}
}

// sentStep is what is sent in answer to a packet, so often, and then how that packet ends where it comes in.
type sentStep struct {
	packet tg.Packet
	wire   uint32 // 0: nothing is sent before
	times  int
	want   end
	// service and limit are as in a serviceStep.
	service, limit int
}

type sentCase struct {
	name     string
	services []policy.Service
	changes  []func(*policy.Policy)
	steps    []sentStep
}

// sends is a service with a limit of so many bytes a day.
func sends(per policy.Per, changes ...func(*policy.Limit)) []policy.Service {
	return []policy.Service{listening("web", policy.TCP, 443, 443, aDay(policy.KindBytesOut, per, 3500, changes...))}
}

// initial is the first datagram of a QUIC connection of its own.
func initial(id byte) tg.Packet {
	dcid := []byte{id, 'o', 'u', 't', 'p', 'u', 't', 's'}
	return tg.QUICFrame(client4, server4, tg.Initial(dcid, []byte{id, 1, 2, 3, 4, 5, 6, 7}))
}

// forgetQUIC has every connection count anew: under other secrets the table knows none.
func (l *programLab) forgetQUIC() {
	l.t.Helper()
	var secret limiterQuicSecret
	must(l.t, l.maps.QuicSecrets.Lookup(uint32(0), &secret))
	for n := range secret.Key {
		secret.Key[n] += 2
	}
	must(l.t, l.maps.QuicSecrets.Put(uint32(0), secret))
}

func sentCases() []sentCase {
	resets := end{limiterReasonREASON_OVER_BYTES_OUT, limiterActionACTION_RESET}
	beside := from("192.0.2.8")
	return []sentCase{
		{name: "per source", services: sends(policy.PerSource), steps: []sentStep{
			{packet: syn4(), want: isNew}, {packet: syn4(), wire: 1000, times: 3, want: isNew}, {packet: syn4(), wire: 1000, want: isOverSent},
			{packet: segment4(tg.ACK), want: isEstablished}, {packet: syn4(beside), want: isNew}, {packet: syn4(toPort(444)), want: isOther},
			{packet: syn4(toPort(444)).With(beside), wire: 9000, want: isOther}, {packet: syn4(beside), want: isNew},
			{packet: syn6(), wire: 3000, want: isNew}, {packet: syn6(), wire: 3000, want: isOverSent},
		}},
		{name: "one buffer of many packets", services: sends(policy.PerSource), steps: []sentStep{
			{packet: syn4(), wire: 65_000, want: isOverSent},
		}},
		{name: "per service", services: sends(policy.PerService), steps: []sentStep{
			{packet: syn4(), wire: 3000, want: isNew}, {packet: syn6(), wire: 3000, want: isOverSent}, {packet: syn4(beside), want: isOverSent},
		}},
		{name: "per destination", services: sends(policy.PerDestination), steps: []sentStep{
			{packet: syn4(), wire: 3000, want: isNew}, {packet: syn4(beside), wire: 3000, want: isOverSent},
			{packet: syn4(beside, to("198.51.100.2")), want: isNew},
		}},
		{name: "per source and destination", services: sends(policy.PerSourceDestination), steps: []sentStep{
			{packet: syn4(), wire: 4000, want: isOverSent}, {packet: syn4(to("198.51.100.2")), want: isNew}, {packet: syn4(beside), want: isNew},
		}},
		{name: "per /24", services: sends(policy.PerSource, over24), steps: []sentStep{
			{packet: syn4(), wire: 3000, want: isNew}, {packet: syn4(beside), wire: 3000, want: isOverSent}, {packet: syn4(), want: isOverSent},
		}},
		{name: "over: observe", services: sends(policy.PerSource, thatObserves), steps: []sentStep{
			{packet: syn4(), wire: 4000, want: observed(limiterReasonREASON_OVER_BYTES_OUT)},
		}},
		{name: "mode: observe", services: sends(policy.PerSource), changes: []func(*policy.Policy){observing}, steps: []sentStep{
			{packet: syn4(), wire: 4000, want: observed(limiterReasonREASON_OVER_BYTES_OUT)},
		}},
		{name: "over: reset", services: sends(policy.PerSource, thatResets), steps: []sentStep{
			{packet: syn4(), wire: 4000, want: resets},
		}},
		{name: "from", services: sends(policy.PerSource, func(l *policy.Limit) { l.From = members("192.0.2.0/29") }), steps: []sentStep{
			{packet: syn4(), wire: 4000, want: isOverSent}, {packet: syn4(beside), wire: 4000, want: isNew},
		}},
		{name: "except", services: sends(policy.PerService, func(l *policy.Limit) { l.Except = members("192.0.2.0/29") }), steps: []sentStep{
			{packet: syn4(), wire: 4000, want: isNew}, {packet: syn4(beside), want: isNew}, {packet: syn4(beside), wire: 4000, want: isOverSent},
			{packet: syn4(), want: isNew},
		}},
		{name: "beside another limit", services: []policy.Service{listening("web", policy.TCP, 443, 443,
			aDay(policy.KindNew, policy.PerSource, 2), aDay(policy.KindBytesOut, policy.PerSource, 3500))}, steps: []sentStep{
			{packet: syn4(), wire: 3000, want: isNew}, {packet: syn4(), wire: 3000, want: isOverSent, limit: 1, times: 1},
			{packet: syn4(beside), want: isNew}, {packet: syn4(beside), want: isNew}, {packet: syn4(beside), want: isOver},
		}},
		{name: "global", services: []policy.Service{listening("web", policy.TCP, 443, 443), listening("ssh", policy.TCP, 22, 22)},
			changes: []func(*policy.Policy){func(p *policy.Policy) {
				p.Global.Limits = []policy.Limit{aDay(policy.KindBytesOut, policy.PerSource, 3500)}
			}}, steps: []sentStep{
				{packet: syn4(), wire: 2000, want: isNew}, {packet: syn4(toPort(22)), wire: 2000, want: isOverSent, service: 1},
				{packet: syn4(toPort(23)), wire: 2000, want: isOther},
			}},
		{name: "UDP", services: []policy.Service{listening("dns", policy.UDP, 443, 443, aDay(policy.KindBytesOut, policy.PerSource, 3500))}, steps: []sentStep{
			{packet: datagram4(), wire: 3000, want: isNew}, {packet: datagram4(), wire: 3000, want: isOverSent}, {packet: syn4(), want: isOther},
		}},
		{name: "QUIC", services: []policy.Service{listening("h3", policy.QUIC, 443, 443, aDay(policy.KindBytesOut, policy.PerSource, 3500))}, steps: []sentStep{
			{packet: initial(1), wire: 3000, want: isNew}, {packet: initial(1), wire: 3000, want: isEstablished}, {packet: initial(2), want: isOverSent},
			{packet: initial(1), want: isEstablished}, {packet: initial(3).With(beside), want: isNew},
		}},
		{name: "local address", services: []policy.Service{func() policy.Service {
			s := sends(policy.PerSource)[0]
			s.Listen[0].Local = netip.MustParsePrefix("198.51.100.0/24")
			return s
		}()}, steps: []sentStep{
			{packet: syn4(to("198.51.101.1")), wire: 4000, want: isOther}, {packet: syn4(), want: isNew}, {packet: syn4(), wire: 4000, want: isOverSent},
		}},
	}
}

func TestBytesOut(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, c := range sentCases() {
		t.Run(c.name, func(t *testing.T) {
			l.t = t
			l.rules(nil, append([]func(*policy.Policy){func(p *policy.Policy) { p.Services = c.services }}, c.changes...)...)
			l.specialisedAndGeneral(func() {
				for _, h := range bothHooks {
					l.emptyMeters()
					l.forgetQUIC()
					for n, s := range c.steps {
						for range max(s.times, 1) {
							if s.wire > 0 {
								l.send(s.packet, s.wire)
							}
							l.tryStep(h, n, serviceStep{packet: s.packet, want: s.want, service: s.service, limit: s.limit})
						}
					}
				}
			})
			l.expectNoOther()
		})
	}
}

// What is allowed is not counted, neither by the list nor by the service, and its entry gets no hit from it.
func TestBytesOutOfTheAllowed(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	services := sends(policy.PerService)
	services[0].Allow = members("2001:db8:1::/48")
	l.rules(nil, func(p *policy.Policy) { p.Services = services })
	l.add(Allow, Entry{Prefix: netip.MustParsePrefix("192.0.2.7/32")}, Entry{Prefix: netip.MustParsePrefix("203.0.113.0/24")})
	for _, p := range []tg.Packet{syn4(from("192.0.2.7")), syn4(from("203.0.113.9")), syn6()} {
		l.send(p, 60_000)
	}
	if tat := l.tables.LimitStates[l.limit(0).Id].TatNs; tat != 0 {
		t.Errorf("what went to allowed sources was charged: TAT %d", tat)
	}
	l.send(syn4(from("192.0.2.9")), 60_000)
	l.expect(hookXDP, syn4(from("192.0.2.9")).Bytes(), 0, isOverSent, "who is not allowed")
	entries, err := l.Entries(Allow)
	must(t, err)
	for _, e := range entries {
		if e.Hits != 0 {
			t.Errorf("%s has %d hits from what was sent", e.Prefix, e.Hits)
		}
	}
}

// owedBursts is what a source owes, in bursts.
func (l *programLab) owedBursts(source netip.Addr) float64 {
	l.t.Helper()
	limit := l.limit(0)
	slot := meterSlot(l.tables, limit, hashKey(&l.control.Hash, limit, source, netip.Addr{}))
	if slot == nil {
		return 0
	}
	return float64(level(limit, atomic.LoadUint64(slot), monotonicNow())) / float64(limit.Capacity)
}

// All that was sent is owed, also past the burst, up to 64 bursts: not more, and never suddenly nothing.
func TestBytesOutAreOwedInFull(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	const burst = 35_000 // less, and one buffer is more than 64 bursts
	l.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("web", policy.TCP, 443, 443, aDay(policy.KindBytesOut, policy.PerSource, burst))}
	})
	for n := range 100 {
		l.send(syn4(), burst)
		want := float64(min(n+1, maxDebtBursts))
		if got := l.owedBursts(client4.Addr()); got < want-0.01*want || got > want+0.01*want {
			t.Fatalf("after %d bursts %.2f are owed, want %.0f", n+1, got, want)
		}
	}
	l.expect(hookXDP, syn4().Bytes(), 0, isOverSent, "after 100 bursts")
	must(t, l.Forget(client4.Addr()))
	l.expect(hookXDP, syn4().Bytes(), 0, isNew, "forgotten")
}

// What a limit charges is what was sent, to one in a hundred, from 64 kB/s to 10 GB/s, in buffers of all sizes.
func TestBytesOutRates(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, per := range []policy.Per{policy.PerSource, policy.PerService} {
		for _, rate := range []uint64{64_000, 1_000_000, 125_000_000, 1_250_000_000, 10_000_000_000} {
			limit := policy.Limit{Kind: policy.KindBytesOut, Per: per, Rate: policy.Rate{Count: rate, Period: time.Second}, Burst: 65_000_000}
			l.rules(nil, func(p *policy.Policy) {
				p.Services = []policy.Service{listening("web", policy.TCP, 443, 443, limit)}
			})
			for _, wire := range []uint32{74, 590, 1514, 65_414} {
				const packets = 3000
				got := l.chargedNs(syn4(), wire, packets)
				want := packets * float64(wire) / float64(rate) * 1e9
				if got < want*0.99 || got > want*1.01 {
					t.Errorf("%s, %d B/s: %d packets of %d bytes cost %.0f ns, want %.0f", per, rate, packets, wire, got, want)
				}
			}
		}
	}
}

// chargedNs is what packets cost that are sent at once. The debt is begun 200 ms ahead, so that none of it drains
// while they run, and a TAT moves by just what is charged.
func (l *programLab) chargedNs(p tg.Packet, wire uint32, packets uint32) float64 {
	l.t.Helper()
	l.emptyMeters()
	l.send(p, wire)
	limit := l.limit(0)
	tat, mask := &l.tables.LimitStates[limit.Id].TatNs, ^uint64(0)
	if limit.metered() {
		tat, mask = meterSlot(l.tables, limit, hashKey(&l.control.Hash, limit, p.Src, p.Dst)), slotTAT
	}
	ahead := (monotonicNow() + uint64(200*time.Millisecond)) >> limit.UnitShift
	before := atomic.LoadUint64(tat)&^mask | ahead&mask
	atomic.StoreUint64(tat, before)
	_, err := l.program(hookTCXOut).Run(&ebpf.RunOptions{Data: back(p).Bytes(), Context: sentContext(wire, 0), Repeat: packets})
	must(l.t, err)
	if late := monotonicNow() >> limit.UnitShift; late >= ahead {
		l.t.Fatalf("the packets took longer than 200 ms")
	}
	return float64((atomic.LoadUint64(tat) - before) & mask << limit.UnitShift)
}

// fragments cuts a packet into fragments with so many bytes each behind the IP header.
func fragments(p tg.Packet, part int) (frames [][]byte) {
	whole := p.With(tg.Cut(8 + len(p.Payload))).Transport
	for offset := 0; offset < len(whole); offset += part {
		end := min(offset+part, len(whole))
		one := p.With(tg.Fragmented(uint16(offset), end < len(whole)))
		one.Transport = whole[offset:end]
		frames = append(frames, one.Bytes())
	}
	return frames
}

// Fragments of a datagram carry no ports but for the first, which stands for all: what is charged for it is what
// all of them are on the wire.
func TestBytesOutOfFragments(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		payload := 2000 + random.IntN(60_000)
		part := 8 * (1 + random.IntN(180))
		l.rules(nil, func(p *policy.Policy) {
			p.Services = []policy.Service{listening("dns", policy.UDP, 443, 443, aDay(policy.KindBytesOut, policy.PerService, 1_000_000))}
		})
		for _, ends := range [][2]netip.AddrPort{{client4, server4}, {client6, server6}} {
			l.emptyMeters()
			wire := 0
			for _, frame := range fragments(back(tg.Datagram(ends[0], ends[1], make([]byte, payload))), part) {
				wire += len(frame)
				l.run(hookTCXOut, frame, sentContext(0, 0))
			}
			limit := l.limit(0)
			got := float64(l.tables.LimitStates[limit.Id].TatNs-monotonicNow()) / (24 * float64(time.Hour)) * 1e6
			if got < float64(wire)*0.99 || got > float64(wire)*1.01 {
				t.Errorf("%s: %d bytes in parts of %d are %d on the wire, and %.0f were charged", ends[0], payload, part, wire, got)
			}
		}
	}
}

// The test frame is counted, so that `status` can tell that this program runs.
func TestEgressSelfTest(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	l.rules(nil, func(p *policy.Policy) { p.Services = sends(policy.PerSource) })
	frame := tg.Raw(tg.EtherTypeLocalExp, make([]byte, 50)).Bytes()
	l.run(hookTCXOut, frame, nil)
	all, err := l.ends(slotOf(hookTCXOut))
	must(t, err)
	if got := all.reason(limiterReasonREASON_SELF_TEST); got == 0 {
		t.Error("the test frame was not counted")
	}
}
