// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

var isProbed = end{limiterReasonREASON_OVER_NEW, limiterActionACTION_PROBE}

// probing is a limit of burst connections that bans whom it drops or resets.
func probing(over policy.Over, burst uint64, ban policy.Ban) policy.Limit {
	l := banning(burst, ban)
	l.Over = over
	return l
}

// newProbeProgram is beside a listener that takes no cookies of the kernel's: a probe asks for none.
func newProbeProgram(t *testing.T, limits ...policy.Limit) *challengeProgram {
	t.Helper()
	c := newChallengeProgram(t, limits...)
	must(t, c.ns.SetSysctl("net.ipv4.tcp_syncookies", "0"))
	return c
}

// provoke uses up what a limit gives.
func (c *challengeProgram) provoke(h hook, p tg.Packet, burst int) *offender {
	c.t.Helper()
	o := &offender{c, h, p, 20000}
	for n := range burst {
		c.ends(h, o.next(), isNew, fmt.Sprintf("connection %d", n))
	}
	return o
}

// probed is the ACK to the probe of a new SYN.
func (o *offender) probed() tg.Packet {
	o.t.Helper()
	o.drainProbes()
	p := o.next()
	return o.ackTo(p, o.ends(o.hook, p, isProbed, "over the limit"))
}

func (o *offender) strikeByProbe(what string) tg.Packet {
	o.t.Helper()
	p := o.probed()
	o.refusesAnswer(p, what)
	return p
}

// refusesAnswer wants the RST of RFC 9293 section 3.10.7.1.
func (o *offender) refusesAnswer(ack tg.Packet, what string) {
	o.t.Helper()
	o.drainAnswers()
	answer := o.ends(o.hook, ack, isOverByProof, what)
	if tcp := decodeTCP(answer); tcp == nil || !tcp.RST || tcp.ACK || tcp.Seq != ack.Ack {
		o.t.Errorf("%s %s: no RST in %x", o.hook, what, answer)
	}
}

// drainProbes gives the budgets of probes back, and those of the ledger.
func (c *challengeProgram) drainProbes() {
	c.t.Helper()
	for _, h := range bothHooks {
		c.setLedger(h, limiterCounts{})
	}
	drain(c.tables, c.limit(int(probeSourceAt)), monotonicNow())
	c.tables.LimitStates[c.limit(int(probeTotalAt)).Id] = limiterLimitState{}
}

func (c *challengeProgram) wantTally(before BanTally, strikes, bans uint64, what string) {
	c.t.Helper()
	if got := c.tally(); got.Strikes-before.Strikes != strikes || got.Bans-before.Bans != bans {
		c.t.Errorf("%s: counted %+v since %+v, want %d strikes and %d bans", what, got, before, strikes, bans)
	}
}

// Who goes on over a limit that drops or resets is banned by his last answer to a probe, and nobody beside him. An
// answer strikes once, also where the limit has room again by then, and whatever is sent behind it.
func TestProbeStrikes(t *testing.T) {
	beside := map[bool]netip.Addr{true: netip.MustParseAddr("198.51.100.77"), false: netip.MustParseAddr("2001:db8:77::1")}
	for _, over := range []policy.Over{policy.OverDrop, policy.OverReset} {
		for _, per := range []policy.Per{policy.PerSource, policy.PerSourceDestination} {
			limit := probing(over, 2, policy.Ban{After: 3, For: 10 * time.Minute})
			limit.Per = per
			c := newProbeProgram(t, limit)
			c.specialisedAndGeneral(func() {
				for _, h := range bothHooks {
					for _, p := range []tg.Packet{syn4(), syn6()} {
						c.emptyMeters()
						c.clearBans()
						before := c.tally()
						o := c.provoke(h, p, 2)
						o.strikeByProbe("strike 1")
						late := o.probed()
						c.emptyMeters()
						o.refusesAnswer(late, "strike 2, and the limit has room")
						for range 5 {
							o.refusesAnswer(late, "strike 2 again")
							o.refusesAnswer(late.With(func(p *tg.Packet) { p.Payload = []byte("hello") }), "strike 2 with data")
						}
						c.wantTally(before, 2, 0, "two strikes")
						c.provoke(h, p, 2)
						o.strikeByProbe("strike 3")
						for _, packet := range []tg.Packet{o.next(), late, o.next().With(tg.Flags(tg.ACK))} {
							c.ends(h, packet, isBlocked, "banned")
						}
						c.ends(h, p.With(func(p *tg.Packet) { p.Src = beside[p.Src.Is4()] }), isNew, "a neighbour")
						c.wantTally(before, 3, 1, "the end")
						c.wantBan(1, 10*time.Minute)
					}
				}
			})
			c.clearBans()
		}
	}
}

// A probe is a SYN-ACK without options and window, so never larger than its SYN, whatever that looks like.
func TestProbeBytes(t *testing.T) {
	c := newProbeProgram(t, probing(policy.OverDrop, 1, policy.Ban{After: 100, For: time.Minute, Within: time.Minute}))
	for _, h := range bothHooks {
		for _, p := range []tg.Packet{syn4(), syn6()} {
			c.emptyMeters()
			o := c.provoke(h, p, 1)
			for name, p := range probeShapes(p) {
				o.mustProbe(p, name)
			}
		}
	}
}

func probeShapes(p tg.Packet) map[string]tg.Packet {
	all := map[string]tg.Packet{}
	for name, options := range synOptionMixes() {
		all[name] = p.With(func(p *tg.Packet) { p.TCPOptions = options })
	}
	for name, change := range map[string]tg.Mutation{
		"nothing":      func(p *tg.Packet) { p.TCPOptions = nil },
		"data":         func(p *tg.Packet) { p.Payload = make([]byte, 1000) },
		"first seq":    func(p *tg.Packet) { p.Seq = 0 },
		"last seq":     func(p *tg.Packet) { p.Seq = 1<<32 - 1 },
		"padding":      func(p *tg.Packet) { p.Trailer = 6 },
		"tag":          tg.Tagged(tg.TPID8021Q),
		"tags":         tg.Tagged(tg.TPID8021AD, tg.TPID8021Q),
		"ECN":          func(p *tg.Packet) { p.TCPFlags |= tg.ECE | tg.CWR },
		"IPv4 options": func(p *tg.Packet) { p.IPv4Options = 40 },
		"IPv6 headers": tg.Behind(3, tg.ExtHeader{Proto: tg.DestOpts}),
	} {
		if name == "IPv4 options" && p.Src.Is6() || name == "IPv6 headers" && p.Src.Is4() {
			continue
		}
		all[name] = p.With(change)
	}
	return all
}

// mustProbe wants p to become exactly the frame of another library; what only the kernel knows, the cookie, is taken
// from the answer.
func (o *offender) mustProbe(p tg.Packet, what string) {
	o.t.Helper()
	o.drainProbes()
	in := p.Bytes()
	out := o.ends(o.hook, p, isProbed, what)
	tcp := decodeTCP(out)
	if tcp == nil {
		o.t.Errorf("%s %s: no TCP in %x", o.hook, what, out)
		return
	}
	want := answerFrame(o.t, p, &layers.TCP{
		SrcPort: layers.TCPPort(p.DstPort), DstPort: layers.TCPPort(p.SrcPort), SYN: true, ACK: true, Seq: tcp.Seq, Ack: p.Seq + 1,
	}, in, resetXDP)
	if !bytes.Equal(out, want) {
		o.t.Errorf("%s %s: to\n%x got\n%x, want\n%x", o.hook, what, in, out, want)
	}
	if len(out) > len(in) {
		o.t.Errorf("%s %s: %d bytes answer %d", o.hook, what, len(out), len(in))
	}
}

// What nobody listens to is not answered, nor are those whom no answer is to reach.
func TestProbeAsksOnlyWhomItMay(t *testing.T) {
	for _, over := range []policy.Over{policy.OverDrop, policy.OverReset} {
		c := newProbeProgram(t, probing(over, 1, policy.Ban{After: 1, For: time.Hour}))
		for _, h := range bothHooks {
			c.emptyMeters()
			o := c.provoke(h, syn4(), 1)
			for name, mutate := range neverAnswered() {
				p := o.next().With(mutate)
				if p.Src.BitLen() == p.Dst.BitLen() && p.Src == syn4().Src && p.Dst == syn4().Dst {
					o.drainProbes()
					c.ends(h, p, isOver, name)
				}
			}
			o.probed()
			c.ends(h, o.next().With(toPort(9)), isOther, "another port")
		}
		must(t, c.listener.Close())
		for _, h := range bothHooks {
			o := &offender{c, h, syn4(), 30000}
			o.drainProbes()
			o.drainAnswers()
			want := isOver
			if over == policy.OverReset {
				want = isOverByProof
			}
			c.ends(h, o.next(), want, "nobody listens")
		}
	}
}

// The SYN of a connection or of a request that is there, sent again, is dropped and never answered.
func TestProbeOfNoConnectionThatIsThere(t *testing.T) {
	for _, deferred := range []bool{false, true} { // a deferred connection is a request until data comes
		for _, over := range []policy.Over{policy.OverDrop, policy.OverReset} {
			c := newProbeProgram(t, probing(over, 1, policy.Ban{After: 1, For: time.Hour}))
			for _, p := range []tg.Packet{syn4(), syn6()} {
				c.connect(p, deferred)
				for _, h := range bothHooks {
					c.emptyMeters()
					c.ends(h, p.With(tg.From(7)), isNew, "the one that there is room for")
					c.ends(h, p, isOver, fmt.Sprintf("of a connection, deferred %v", deferred))
					c.ends(h, p.With(tg.From(8)), isProbed, "of none")
				}
			}
		}
	}
}

// connect makes the connection that p asks for.
func (c *challengeProgram) connect(p tg.Packet, deferred bool) {
	c.t.Helper()
	for _, a := range []netip.Addr{p.Src, p.Dst} {
		must(c.t, c.ns.AddLocal(netip.PrefixFrom(a, a.BitLen())))
	}
	raw, err := c.listener.(*net.TCPListener).SyscallConn()
	must(c.t, err)
	seconds := 0
	if deferred {
		seconds = 60
	}
	must(c.t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, seconds)
	}))
	must(c.t, err)
	conn, err := testenv.DialFrom(c.ns, netip.AddrPortFrom(p.Src, p.SrcPort), netip.AddrPortFrom(p.Dst, p.DstPort), 5*time.Second)
	must(c.t, err)
	c.t.Cleanup(func() { _ = testenv.Abort(conn) })
}

// Probes stop at their budgets, of one source and of all.
func TestProbesStopAtTheirBudgets(t *testing.T) {
	c := newProbeProgram(t, probing(policy.OverDrop, 1, policy.Ban{After: 100, For: time.Hour}))
	for _, h := range bothHooks {
		c.emptyMeters()
		o := c.provoke(h, syn4(), 1)
		beside := c.provoke(h, syn4(from("198.51.100.99")), 1)
		o.drainProbes()
		program := c.program(h)
		before, err := c.programLab.ends(slotOf(h))
		must(t, err)
		begin := monotonicNow()
		must(t, c.ns.Do(func() error {
			for range 1000 {
				if _, _, err := program.Test(o.next().Bytes()); err != nil {
					return err
				}
			}
			return nil
		}))
		most := probesAtOnce + probesPerSecond*(monotonicNow()-begin)/uint64(time.Second) + 1
		after, err := c.programLab.ends(slotOf(h))
		must(t, err)
		sent := after.of(isProbed.reason, isProbed.action).Packets - before.of(isProbed.reason, isProbed.action).Packets
		if sent < probesAtOnce || sent > most {
			t.Errorf("%s: %d probes, want %d to %d", h, sent, probesAtOnce, most)
		}
		c.ends(h, beside.next(), isProbed, "another source")
		total := c.limit(int(probeTotalAt))
		if total.Cost == 0 {
			t.Fatal("no budget in total")
		}
		c.tables.LimitStates[total.Id].TatNs = monotonicNow() + uint64(time.Hour)
		c.ends(h, beside.next(), isOver, "past the budget of all")
		c.tables.LimitStates[total.Id].TatNs = 0
		c.ends(h, beside.next(), isProbed, "again")
	}
}

// Past the ledger's budget SYNs are probed by chance, so that a flood does not cost what a probe does.
func TestProbesAreSampled(t *testing.T) {
	c := newProbeProgram(t, probing(policy.OverDrop, 1, policy.Ban{After: 100, For: time.Hour}))
	for _, h := range bothHooks {
		c.emptyMeters()
		o := c.provoke(h, syn4(), 1)
		testenv.WaitFor(t, time.Minute, "a SYN within the ledger's window", func() bool { return o.isSampledOut() })
		o.drainProbes()
		c.spendLedger(h, 0)
		c.ends(h, o.next(), isProbed, "the one in so many")
	}
}

// isSampledOut judges a SYN past the ledger's budget, and wants it dropped; false: its window has ended meanwhile.
func (o *offender) isSampledOut() bool {
	o.t.Helper()
	const skip = 1 << 20
	before, err := o.programLab.ends(slotOf(o.hook))
	must(o.t, err)
	o.drainProbes()
	o.spendLedger(o.hook, skip)
	must(o.t, o.ns.Do(func() error {
		_, _, err := o.program(o.hook).Test(o.next().Bytes())
		return err
	}))
	var perCPU []limiterCounts
	must(o.t, o.maps.Counters.Lookup(slotOf(o.hook), &perCPU))
	for _, c := range perCPU {
		if c.Ledger.Skip[1] != skip-1 {
			continue
		}
		after, err := o.programLab.ends(slotOf(o.hook))
		must(o.t, err)
		if probes := after.of(isProbed.reason, isProbed.action).Packets - before.of(isProbed.reason, isProbed.action).Packets; probes != 0 {
			o.t.Errorf("%s: probed past the ledger's budget", o.hook)
		}
		return true
	}
	return false
}

// spendLedger leaves the ledger's budget for refusals spent, with so many to skip before the next sample.
func (c *challengeProgram) spendLedger(h hook, skip uint32) {
	c.t.Helper()
	var spent limiterCounts
	spent.Ledger.WindowNs = monotonicNow() - uint64(20*time.Millisecond) // the clock of the program may be a tick behind
	spent.Ledger.Used[1], spent.Ledger.Skip[1] = 1<<20, skip
	c.setLedger(h, spent)
}

func (c *challengeProgram) setLedger(h hook, as limiterCounts) {
	c.t.Helper()
	var perCPU []limiterCounts
	must(c.t, c.maps.Counters.Lookup(slotOf(h), &perCPU))
	for cpu := range perCPU {
		perCPU[cpu].Ledger = as.Ledger
	}
	must(c.t, c.maps.Counters.Put(slotOf(h), perCPU))
}

// Nobody is banned by what another sends in his name, whatever is replayed: answers of other ports, of others, to
// other services, with other numbers, and of any other minute.
func TestNobodyIsFramedByProbes(t *testing.T) {
	random := rand.New(rand.NewPCG(testSeed(t), 2))
	limit := probing(policy.OverDrop, 1, policy.Ban{After: 1, For: time.Hour})
	c := newProbeProgram(t, limit)
	c.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{
			listening("web", policy.TCP, server4.Port(), server4.Port(), limit), listening("other", policy.TCP, 9, 9, limit),
		}
	})
	for _, h := range bothHooks {
		for _, p := range []tg.Packet{syn4(), syn6()} {
			c.emptyMeters()
			c.clearBans()
			before := c.tally()
			o := c.provoke(h, p, 1)
			right := o.probed()
			forged := func() []tg.Packet {
				o.port++
				return []tg.Packet{
					o.syn.With(tg.From(o.port)), right.With(tg.From(o.port)), right.With(toPort(9)),
					right.With(tg.From(o.port), func(p *tg.Packet) { p.Ack = random.Uint32() }),
					right.With(func(p *tg.Packet) { p.Ack = random.Uint32() &^ 7 }), // the next few are good too, by the MSS
					right.With(func(p *tg.Packet) { p.Seq += random.Uint32() | 1 }),
					right.With(func(p *tg.Packet) { p.Ack += (random.Uint32()%255 + 1) << 24 }),
				}
			}
			program := c.program(h)
			must(t, c.ns.Do(func() error {
				for range 10_000 {
					for _, f := range forged() {
						if bytes.Equal(f.Bytes(), right.Bytes()) {
							continue
						}
						if _, _, err := program.Test(f.Bytes()); err != nil {
							return err
						}
					}
				}
				return nil
			}))
			c.spendGuesses(p.Src)
			o.refusesAnswer(right, "the right one among them")
			c.wantTally(before, 0, 0, fmt.Sprintf("%s, a flood", h))
			drain(c.tables, c.limit(int(guessesAt)), monotonicNow())
			o.strikeByProbe("of his own, once guesses are few")
			c.wantTally(before, 1, 1, "his own")
		}
	}
}

// The answer to a probe is not the kernel's cookie, and that to a challenge is no answer to a probe; nor is that to
// another limit's probe.
func TestProbeIsNoChallenge(t *testing.T) {
	ban := policy.Ban{After: 5, For: time.Hour}
	challenged := challenging(policy.PerSourceDestination, 1)
	limits := []policy.Limit{probing(policy.OverDrop, 3, ban), challenged}
	c := newChallengeProgram(t, limits...)
	for _, h := range bothHooks {
		for _, p := range []tg.Packet{syn4(), syn6()} {
			c.knock()
			c.emptyMeters()
			c.clearBans()
			before := c.tally()
			o := c.provoke(h, p, 1)
			proof := o.proof() // charged to its source, as if it were admitted
			o.proof()
			c.ends(h, proof, isProven, "the answer to a challenge")
			c.wantTally(before, 0, 0, "a challenge")
			o.strikeByProbe("the answer to a probe")
			c.wantTally(before, 1, 0, "a probe")
		}
	}
}

// Each limit has probes of its own: an answer strikes for the limit that asked.
func TestProbeIsOfItsLimit(t *testing.T) {
	first := probing(policy.OverDrop, 5, policy.Ban{After: 1, For: time.Hour})
	second := probing(policy.OverReset, 1, policy.Ban{After: 2, For: time.Minute})
	second.Per = policy.PerSourceDestination
	c := newProbeProgram(t, first, second)
	for _, h := range bothHooks {
		c.emptyMeters()
		c.clearBans()
		o := c.provoke(h, syn6(), 1)
		o.strikeByProbe("strike 1 of the second limit")
		strikes, err := c.Strikes(o.syn.Src)
		must(t, err)
		if len(strikes) != 1 || strikes["web limit 2"] != 1 {
			t.Errorf("strikes %v", strikes)
		}
		o.strikeByProbe("strike 2 of the second limit")
		c.wantBan(1, time.Minute)
	}
}

// A limit of all services probes in each of them; the ban says where the strikes came in.
func TestProbeOfAGlobalLimit(t *testing.T) {
	c := newProbeProgram(t)
	c.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("web", policy.TCP, server4.Port(), server4.Port())}
		p.Global.Limits = []policy.Limit{probing(policy.OverDrop, 1, policy.Ban{After: 1, For: time.Hour})}
	})
	for _, h := range bothHooks {
		c.emptyMeters()
		c.clearBans()
		o := c.provoke(h, syn4(), 1)
		o.strikeByProbe("the only one")
		entries, err := c.Entries(Block)
		must(t, err)
		if len(entries) != 1 || entries[0].Reason != "1 strike at web" {
			t.Errorf("entries %+v", entries)
		}
	}
}

// Two CPUs with one answer: one strike.
func TestProbeStrikesOnceOnTwoCPUs(t *testing.T) {
	for _, h := range bothHooks {
		c := newProbeProgram(t, probing(policy.OverDrop, 1, policy.Ban{After: 100, For: time.Hour}))
		o := c.provoke(h, syn4(), 1)
		for n := range uint64(20) {
			ack := o.probed().Bytes()
			before := c.tally()
			c.onTwoCPUs(h, [][]byte{ack, ack, ack, ack, ack, ack, ack, ack})
			c.wantTally(before, 1, 0, fmt.Sprintf("%s, answer %d", h, n))
		}
	}
}

// Where nothing is refused nothing is probed: under `mode: observe`, and once `attach --confirm` has run out.
func TestProbeOfNobodyObserved(t *testing.T) {
	limit := probing(policy.OverDrop, 1, policy.Ban{After: 1, For: time.Hour})
	c := newProbeProgram(t, limit)
	o := c.provoke(hookXDP, syn4(), 1)
	c.rules(nil, observing, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("web", policy.TCP, server4.Port(), server4.Port(), limit)}
	})
	observedOver := observed(limiterReasonREASON_OVER_NEW)
	for _, h := range bothHooks {
		c.emptyMeters()
		c.ends(h, o.next(), isNew, "under the limit")
		c.ends(h, o.next(), observedOver, "over it")
	}
}

// What the act stage must do without where answers would lose their tag.
func TestProbeWhereAnswersMayNotLeave(t *testing.T) {
	c := newProbeProgram(t, probing(policy.OverDrop, 1, policy.Ban{After: 1, For: time.Hour}))
	c.frozen.silent = true
	for _, h := range bothHooks {
		c.emptyMeters()
		o := c.provoke(h, syn4(), 1)
		c.ends(h, o.next(), isOver, "silent")
	}
}

// A ban that no strikes can bring is refused.
func TestProbesMustSuffice(t *testing.T) {
	for after, good := range map[uint64]bool{30: true, 31: false} {
		limit := probing(policy.OverDrop, 1, policy.Ban{After: after, For: time.Hour, Within: time.Second})
		limit.Prefix, limit.Ban.Prefix = policy.PrefixLengths{IPv4: 32, IPv6: 64}, policy.PrefixLengths{IPv4: 32, IPv6: 64}
		if err := supported(limit); (err == nil) != good {
			t.Errorf("%d strikes within a second: %v", after, err)
		}
	}
}
