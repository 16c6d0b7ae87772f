// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// Where SYNs in his name have used up somebody's limit, his own attempts are refused, and are no strikes before they alone
// are over it: not those that the kernel sent twice either.
func TestForgedSYNsMakeNoAttemptAStrike(t *testing.T) {
	const burst = 5
	for _, over := range []policy.Over{policy.OverDrop, policy.OverReset} {
		for _, per := range []policy.Per{policy.PerSource, policy.PerSourceDestination} {
			limit := probing(over, burst, policy.Ban{After: 1, For: time.Hour})
			limit.Per = per
			c := newProbeProgram(t, limit)
			for _, h := range bothHooks {
				for _, p := range []tg.Packet{syn4(), syn6()} {
					c.emptyMeters()
					c.clearBans()
					before := c.tally()
					o := c.useUp(h, p, burst)
					for range burst {
						ack := o.probed()
						c.refusesAnswer(h, ack, "an attempt")
						c.refusesAnswer(h, ack, "the same again")
					}
					c.wantTally(before, 0, 0, "as many as the limit allows")
					o.strikeByProbe("one more")
					c.wantTally(before, 1, 1, "one more")
				}
			}
		}
	}
}

// Of what meets a request only the ACK that ends its handshake is an attempt: not what has another number, for that
// can be forged, nor what may come more than once.
func TestOnlyTheACKOfAHandshakeIsAnAttempt(t *testing.T) {
	c := newProbeProgram(t, probing(policy.OverDrop, 1, policy.Ban{After: 1, For: time.Hour}))
	port := uint16(30_000)
	for _, p := range []tg.Packet{syn4(), syn6()} {
		for _, h := range bothHooks {
			c.emptyMeters()
			o := c.useUp(h, p, 1)
			o.drainProbes()
			o.ends(h, o.next(), isProbed, "from here on its ACKs are looked at")
			// A request that has waited for a second sends its SYN-ACK again.
			testenv.WaitFor(t, time.Minute, "a handshake to count", func() bool {
				port++
				syn := p.With(tg.From(port))
				next := nextReceived(t, c.connect(syn, true))
				ack := syn.With(tg.Flags(tg.ACK), func(p *tg.Packet) { p.Seq, p.Ack, p.TCPOptions = p.Seq+1, next, nil })
				for name, change := range map[string]tg.Mutation{
					"another number": func(p *tg.Packet) { p.Ack++ },
					"the one before": func(p *tg.Packet) { p.Ack-- },
					"with data":      func(p *tg.Packet) { p.Payload = []byte("hello") },
				} {
					c.ends(h, ack.With(change), isNotConnected, name)
					if c.hasTried(p.Src) {
						t.Fatalf("%s: %s counted", h, name)
					}
				}
				c.ends(h, ack, isNotConnected, "the right one")
				return c.hasTried(p.Src)
			})
		}
	}
}

// hasTried: the second meter of the first limit holds something of a source.
func (c *challengeProgram) hasTried(source netip.Addr) bool {
	c.t.Helper()
	second := c.limit(int(c.limit(0).Probed))
	slot := meterSlot(c.tables, second, hashKey(&c.control.Hash, second, source, netip.Addr{}))
	return slot != nil && level(second, *slot, monotonicNow()) > 0
}

// nextReceived is the sequence number that a client expects next: of its SYN-ACK, plus 1.
func nextReceived(t *testing.T, conn net.Conn) uint32 {
	t.Helper()
	const receiveQueue = 1 // TCP_RECV_QUEUE
	raw, err := conn.(*net.TCPConn).SyscallConn()
	must(t, err)
	var next int
	must(t, raw.Control(func(fd uintptr) {
		for _, option := range [][2]int{{unix.TCP_REPAIR, unix.TCP_REPAIR_ON}, {unix.TCP_REPAIR_QUEUE, receiveQueue}} {
			if err == nil {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option[0], option[1])
			}
		}
		if err == nil {
			next, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		}
	}))
	must(t, err)
	return uint32(next)
}
