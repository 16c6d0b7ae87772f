// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"

	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// How SYNs and ACKs end where a limit challenges.
var (
	isChallenged   = end{limiterReasonREASON_OVER_NEW, limiterActionACTION_CHALLENGE}
	isProven       = passed(limiterReasonREASON_PROVEN)
	isOverByProof  = end{limiterReasonREASON_OVER_NEW, limiterActionACTION_RESET}
	isOverButPass  = passed(limiterReasonREASON_OVER_NEW)
	isNotConnected = passed(limiterReasonREASON_ESTABLISHED)
)

// challengeProgram is the whole program, run beside a listener on the test's port that takes cookies.
type challengeProgram struct {
	*programLab
	t        *testing.T
	ns       *testenv.Namespace
	listener net.Listener
}

func newChallengeProgram(t *testing.T, limits ...policy.Limit) *challengeProgram {
	t.Helper()
	c := &challengeProgram{t: t, ns: testenv.NewNamespace(t, "listener")}
	must(t, c.ns.SetSysctl("net.ipv4.tcp_syncookies", "2"))
	must(t, c.ns.Do(func() (err error) {
		config := net.ListenConfig{}
		config.SetMultipathTCP(false) // whose requests no program can read
		c.listener, err = config.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", server4.Port()))
		return err
	}))
	t.Cleanup(func() { _ = c.listener.Close() })
	c.programLab = newProgramLab(t, frozen{linkHeader: true})
	c.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("web", policy.TCP, server4.Port(), server4.Port(), limits...)}
	})
	return c
}

// knock is a real SYN, after which the listener takes cookies for two minutes.
func (c *challengeProgram) knock() {
	c.t.Helper()
	conn, err := testenv.Dial(c.ns, netip.MustParseAddr("127.0.0.1"), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), server4.Port()), 5*time.Second)
	must(c.t, err)
	must(c.t, testenv.Abort(conn))
}

// ends judges a frame beside the listener, and wants exactly this one counter to move.
func (c *challengeProgram) ends(h hook, p tg.Packet, want end, what string) (out []byte) {
	c.t.Helper()
	before, err := c.programLab.ends(slotOf(h))
	must(c.t, err)
	var j judgement
	must(c.t, c.ns.Do(func() error {
		j = c.run(h, p.Bytes(), nil)
		return nil
	}))
	after, err := c.programLab.ends(slotOf(h))
	must(c.t, err)
	for n := range after {
		e := end{limiterReason(n / int(limiterActionACTION_COUNT)), limiterAction(n % int(limiterActionACTION_COUNT))}
		moved := after[n].Packets - before[n].Packets
		if e == want && moved != 1 || e != want && moved != 0 {
			c.t.Errorf("%s %s: %v moved by %d; want %v", h, what, e, moved, want)
		}
	}
	answered := want.answers()
	if tx := j.verdict == map[hook]uint32{hookXDP: xdpTX, hookTCX: tcRedirect}[h]; tx != answered {
		c.t.Errorf("%s %s: verdict %d, want an answer: %v", h, what, j.verdict, answered)
	}
	return j.out
}

// ackTo is what a client sends that got an answer.
func (c *challengeProgram) ackTo(p tg.Packet, answer []byte) tg.Packet {
	c.t.Helper()
	tcp := decodeTCP(answer)
	if tcp == nil || !tcp.SYN || !tcp.ACK {
		c.t.Fatalf("no SYN-ACK in %x", answer)
	}
	return p.With(tg.Flags(tg.ACK), func(p *tg.Packet) { p.Seq, p.Ack, p.TCPOptions = p.Seq+1, tcp.Seq+1, nil })
}

func challenging(per policy.Per, burst uint64) policy.Limit {
	return aDay(policy.KindNew, per, burst, func(l *policy.Limit) { l.Over = policy.OverChallenge })
}

// A limit that names no source asks for nothing but an answer: the ACK is the kernel's to judge.
func TestChallengeOfAService(t *testing.T) {
	for _, per := range []policy.Per{policy.PerService, policy.PerDestination} {
		c := newChallengeProgram(t, challenging(per, 1))
		c.knock()
		c.specialisedAndGeneral(func() {
			for _, h := range bothHooks {
				for _, p := range []tg.Packet{syn4(), syn6()} {
					c.emptyMeters()
					c.ends(h, p, isNew, "under the limit")
					answer := c.ends(h, p, isChallenged, "over it")
					c.ends(h, c.ackTo(p, answer), isNotConnected, "its ACK")
				}
			}
		})
	}
}

// Without a SYN of late the listener would take no ACK: some pass, a hundred at once at the most. Nobody is
// answered in the name of a listener that is not there or takes no cookies.
func TestChallengeOnlyWhatTheKernelTakes(t *testing.T) {
	for _, h := range bothHooks {
		c := newChallengeProgram(t, challenging(policy.PerService, 1))
		c.ends(h, syn4(), isNew, "under the limit")
		for n := range 100 {
			c.ends(h, syn4(), isOverButPass, fmt.Sprintf("SYN %d to a listener that has seen none", n))
		}
		c.tables.LimitStates[c.limit(int(passedOnAt)).Id].TatNs = monotonicNow() + uint64(time.Hour)
		c.ends(h, syn4(), isOver, "past the budget")
		c.knock()
		c.ends(h, syn4(), isChallenged, "to a listener that has seen a SYN")
		for _, value := range []string{"1", "0"} {
			must(t, c.ns.SetSysctl("net.ipv4.tcp_syncookies", value))
			c.ends(h, syn4(), isOver, "tcp_syncookies="+value)
		}
		must(t, c.ns.SetSysctl("net.ipv4.tcp_syncookies", "2"))
		must(t, c.listener.Close())
		c.ends(h, syn4(), isOver, "nobody listens")
	}
}

// Who has a connection or a request here is not challenged.
func TestChallengeOfNoConnectionThatIsThere(t *testing.T) {
	for _, h := range bothHooks {
		c := newChallengeProgram(t, challenging(policy.PerService, 1))
		loopback := netip.MustParseAddr("127.0.0.1")
		conn, err := testenv.Dial(c.ns, loopback, netip.AddrPortFrom(loopback, server4.Port()), 5*time.Second)
		must(t, err)
		defer testenv.Abort(conn)
		peer, err := c.listener.Accept()
		must(t, err)
		defer peer.Close()
		c.ends(h, syn4(), isNew, "under the limit")
		// Loopback is never answered, so the address says nothing: a neighbour port is dropped, the connection's too.
		from := conn.LocalAddr().(*net.TCPAddr).AddrPort()
		c.ends(h, tg.SYN(from, netip.AddrPortFrom(loopback, server4.Port())), isOver, "of a connection")
	}
}

// A limit that names the source has a second meter, which only proof charges.
func TestChallengeOfASource(t *testing.T) {
	for _, per := range []policy.Per{policy.PerSource, policy.PerSourceDestination} {
		c := newChallengeProgram(t, challenging(per, 3))
		c.knock()
		c.specialisedAndGeneral(func() {
			for _, h := range bothHooks {
				for _, p := range []tg.Packet{syn4(), syn6()} {
					c.emptyMeters()
					c.tryProof(h, p)
				}
			}
		})
	}
}

func (c *challengeProgram) tryProof(h hook, p tg.Packet) {
	c.t.Helper()
	port := func(n int) tg.Packet { return p.With(tg.From(uint16(20000 + n))) }
	var acks []tg.Packet
	for n := range 3 {
		c.ends(h, port(n), isNew, "under the limit")
	}
	for n := range 5 {
		answer := c.ends(h, port(n), isChallenged, "over it")
		acks = append(acks, c.ackTo(port(n), answer))
	}
	for n, ack := range acks[:3] {
		c.ends(h, ack, isProven, fmt.Sprintf("proof %d", n))
		c.ends(h, ack.With(func(p *tg.Packet) { p.Ack += 64 }), isNotConnected, "a guess")
		c.ends(h, ack.With(tg.From(5)), isNotConnected, "the ACK of another port")
	}
	answer := c.ends(h, acks[3], isOverByProof, "proof over the limit")
	if tcp := decodeTCP(answer); tcp == nil || !tcp.RST || tcp.Seq != acks[3].Ack || tcp.ACK {
		c.t.Errorf("%s: %x is not the RST of RFC 9293 section 3.10.7.1", h, answer)
	}
	c.ends(h, port(9), isOver, "a SYN over what is proven")
	c.ends(h, p.With(func(p *tg.Packet) {
		p.Src = map[bool]netip.Addr{true: netip.MustParseAddr("198.51.100.77"), false: netip.MustParseAddr("2001:db8:77::1")}[p.Src.Is4()]
	}), isNew, "another source")
}

// Answers stop at their budgets, of one source and of all.
func TestChallengesStopAtTheirBudgets(t *testing.T) {
	for _, h := range bothHooks {
		c := newChallengeProgram(t, challenging(policy.PerService, 1))
		c.knock()
		c.ends(h, syn4(), isNew, "under the limit")
		c.ends(h, syn4(), isChallenged, "over it")
		total := c.limit(int(challengeTotalAt))
		if total.Cost == 0 {
			t.Fatal("no budget in total")
		}
		c.tables.LimitStates[total.Id].TatNs = monotonicNow() + uint64(time.Hour)
		c.ends(h, syn4(), isOver, "past the budget of all")
		c.tables.LimitStates[total.Id].TatNs = 0
		c.ends(h, syn4(), isChallenged, "again")
		one := c.limit(int(challengeSourceAt))
		slot := meterSlot(c.tables, one, hashKey(&c.control.Hash, one, client4.Addr(), netip.Addr{}))
		if slot == nil {
			t.Fatal("the source has no budget of its own")
		}
		*slot = *slot&slotTag | (monotonicNow()>>one.UnitShift+(one.Capacity+one.Stale)/2)&slotTAT
		c.ends(h, syn4(), isOver, "past the budget of the source")
		c.ends(h, syn4(from("198.51.100.99")), isChallenged, "another source")
	}
}

// In a policy that challenges, whom a full table has no room for is challenged, past what passes of all of them; whoever
// is no newcomer is refused as ever.
func TestFullTableChallenges(t *testing.T) {
	plain := aDay(policy.KindNew, policy.PerSource, 1, func(l *policy.Limit) { l.Over = policy.OverDrop })
	for setting, want := range map[policy.OnTableFull]end{
		policy.TableFullChallenge: {limiterReasonREASON_TABLE_FULL, limiterActionACTION_CHALLENGE},
		policy.TableFullPass:      isFull, policy.TableFullDrop: isFull,
	} {
		c := newChallengeProgram(t, plain, challenging(policy.PerService, 1000))
		c.rules(nil, func(p *policy.Policy) {
			p.Services = []policy.Service{
				listening("web", policy.TCP, server4.Port(), server4.Port(), plain, challenging(policy.PerService, 1000)),
			}
			p.OnTableFull = setting
		})
		c.knock()
		for _, h := range bothHooks {
			oneBucket(c.programLab)
			c.fullTable()
			c.tables.LimitStates[c.limit(0).Id].AggregateTatNs = monotonicNow() + c.limit(0).AggregateCapacityNs
			c.ends(h, syn4(), want, string(setting))
			c.emptyMeters()
			c.ends(h, syn4(), isNew, "with room")
			c.ends(h, syn4(), isOver, "over its own limit")
			c.emptyMeters()
		}
	}
}

// What comes out is no larger than what came in, but for the options.
func TestChallengeIsNoAmplifier(t *testing.T) {
	c := newChallengeProgram(t, challenging(policy.PerService, 1))
	c.knock()
	for _, h := range bothHooks {
		c.emptyMeters()
		c.ends(h, syn4(), isNew, "under the limit")
		for mix, options := range synOptionMixes() {
			p := syn4(func(p *tg.Packet) { p.TCPOptions = options })
			in, out := len(p.Bytes()), len(c.ends(h, p, isChallenged, mix))
			if out > in+4 {
				t.Errorf("%s %s: %d bytes answer %d", h, mix, out, in)
			}
		}
	}
}
