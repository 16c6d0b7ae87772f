// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"fmt"
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

// provoke uses up what a limit gives, and what it gives once more to who proves that he is no forgery.
func (c *challengeProgram) provoke(h hook, p tg.Packet, burst int) *offender {
	c.t.Helper()
	o := c.useUp(h, p, burst)
	before := c.tally()
	for n := range burst {
		c.refusesAnswer(h, o.probed(), fmt.Sprintf("attempt %d", n))
	}
	c.wantTally(before, 0, 0, "no more attempts than the limit allows")
	return o
}

// useUp uses up what a limit gives.
func (c *challengeProgram) useUp(h hook, p tg.Packet, burst int) *offender {
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
	o.refusesAnswer(o.hook, p, what)
	return p
}

// refusesAnswer wants the RST of RFC 9293 section 3.10.7.1.
func (c *challengeProgram) refusesAnswer(h hook, ack tg.Packet, what string) {
	c.t.Helper()
	c.drainAnswers()
	answer := c.ends(h, ack, isOverByProof, what)
	if tcp := decodeTCP(answer); tcp == nil || !tcp.RST || tcp.ACK || tcp.Seq != ack.Ack {
		c.t.Errorf("%s %s: no RST in %x", h, what, answer)
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
						drain(c.tables, c.limit(0), monotonicNow())
						o.refusesAnswer(o.hook, late, "strike 2, and the limit has room")
						for n := range uint32(5) {
							o.refusesAnswer(o.hook, late, "strike 2 again")
							o.refusesAnswer(o.hook, late.With(func(p *tg.Packet) { p.Seq, p.Ack = p.Seq+n<<20, p.Ack+n<<20+n%4 }), "strike 2, shifted")
							o.refusesAnswer(o.hook, late.With(func(p *tg.Packet) { p.Payload = []byte("hello") }), "strike 2 with data")
						}
						c.wantTally(before, 2, 0, "two strikes")
						c.useUp(h, p, 2)
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
			o := c.useUp(h, p, 1)
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
			o := c.useUp(h, syn4(), 1)
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

// The ACK of a connection that is there strikes nobody, though by chance it has the number that answers a probe.
func TestProbeIsNotAnsweredByAConnection(t *testing.T) {
	c := newProbeProgram(t, probing(policy.OverDrop, 1, policy.Ban{After: 1, For: time.Hour}))
	port := uint16(30_000)
	for _, p := range []tg.Packet{syn4(), syn6()} {
		for _, h := range bothHooks {
			c.emptyMeters()
			before := c.tally()
			port++
			syn := p.With(tg.From(port))
			c.ends(h, p.With(tg.From(7)), isNew, "the one that there is room for")
			ack := c.ackTo(syn, c.ends(h, syn, isProbed, "over the limit"))
			conn := c.connect(syn, false)
			c.ends(h, ack, isNotConnected, "of a connection")
			if got := c.tally(); got != before {
				t.Errorf("%s: counted %+v since %+v", h, got, before)
			}
			must(t, conn.(*net.TCPConn).SetLinger(0))
			must(t, conn.Close())
			c.drainAnswers()
			c.ends(h, ack, isOverByProof, "the same of none")
			c.clearBans()
		}
	}
}

// Behind a connection that has ended here, whoever asks with its address and port asks for a new one.
func TestResetBehindAConnectionThatHasEnded(t *testing.T) {
	c := newProbeProgram(t, aDay(policy.KindNew, policy.PerSource, 1, thatResets))
	for _, p := range []tg.Packet{syn4(), syn6()} {
		conn := c.connect(p, false)
		peer, err := c.listener.Accept()
		must(t, err)
		for _, h := range bothHooks {
			c.emptyMeters()
			c.ends(h, p.With(tg.From(7)), isNew, "the one that there is room for")
			c.ends(h, p, isOver, "of a connection")
		}
		must(t, peer.Close()) // the first to close waits
		must(t, conn.Close())
		for _, h := range bothHooks {
			testenv.WaitFor(t, 5*time.Second, "the connection to end", func() bool {
				c.drainAnswers()
				var verdict uint32
				must(t, c.ns.Do(func() error {
					verdict = c.run(h, p.Bytes(), nil).verdict
					return nil
				}))
				return verdict == isOverByProof.verdict(h)
			})
		}
	}
}

// connect makes the connection that p asks for.
func (c *challengeProgram) connect(p tg.Packet, deferred bool) net.Conn {
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
	return conn
}
