// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// web is one service on all its ports, addresses and protocols: 50/s, burst 100.
func (b *exampleBench) mustLimitWeb() {
	b.t.Helper()
	from, w := b.next(b.side.stranger), open()
	got := b.connections(tries{80, false, 100, 0}, from)
	b.mustBe("web, a whole burst", got, 100, 100)
	repeated := b.repeated
	got = b.connections(tries{443, true, 80, 200}, from)
	got += b.connections(tries{8443, true, 80, 200}, from)
	// The least is what comes back while the slower ones are sent, but for where it is cut.
	b.mustBe("web, after a burst", got, 2*79*50/200-2, w.refilled(50))
	b.mustHaveRefused("limit 1 of web", b.limitOver("web", 0), 160, got, repeated)
	b.mustConnect("a neighbour", tries{443, true, 60, 0}, b.next(b.side.stranger))
	b.mustConnect("port 8443 of another address", tries{8443, false, 150, 0}, from)
}

// A network of customers has 500/s together, though each of them is within its own limit.
func (b *exampleBench) mustLimitNetworks() {
	b.t.Helper()
	var from []netip.Addr
	for n := range 15 {
		from = append(from, b.side.customer(n))
	}
	before, w := b.limitOver("web", 1), open()
	got := b.connections(tries{80, true, 1500, 0}, from...)
	b.mustBe("web, a network", got, 500, 500+w.refilled(500))
	if refused := b.limitOver("web", 1) - before; got < 1500 && refused == 0 {
		b.t.Errorf("limit 2 of web refused nothing, and %d of 1500 were admitted", got)
	}
}

// A QUIC connection is counted as a new one of web, once, however many datagrams ask for it.
func (b *exampleBench) mustLimitQUIC() {
	b.t.Helper()
	b.mustBe("QUIC, each asked for twice", b.quic(b.next(b.side.stranger), 80, 2), 160, 160)
	from, w := b.next(b.side.stranger), open()
	got := b.quic(from, 150, 1)
	b.mustBe("QUIC", got, 100, 100+w.refilled(50))
	b.mustBe("tcp after QUIC", b.connections(tries{443, true, 100, 0}, from), 0, w.refilled(50)+100-got)
	b.mustBe("QUIC that asks for nothing", b.datagrams(from, []uint16{443}, small(300)...), 300, 300)
}

// At most 3 in any minute: one at a time. The office is not counted.
func (b *exampleBench) mustLimitSSH() {
	b.t.Helper()
	from, w := b.next(b.side.stranger), open()
	got := b.connections(tries{22, true, 3, 0}, from)
	got += b.connections(tries{22, false, 2, 0}, from)
	b.mustBe("ssh", got, 1, w.refilled(1.0/30))
	b.mustConnect("ssh from the office", tries{22, true, 20, 0}, b.side.office)
}

// Relays have a limit of their own, and not the other one.
func (b *exampleBench) mustLimitMail() {
	b.t.Helper()
	w := open()
	got := b.connections(tries{25, true, 130, 0}, b.next(b.side.stranger))
	b.mustBe("mail", got, 100, 100+w.refilled(1.0/36)-1)
	b.mustConnect("mail from a relay", tries{25, true, 300, 0}, b.next(b.side.relay))
}

// game is one service on all its ports: 300 packets a second, burst 600.
func (b *exampleBench) mustLimitGame() {
	b.t.Helper()
	from, w := b.next(b.side.stranger), open()
	got := b.datagrams(from, gamePorts(), small(1200)...)
	b.mustBe("game", got, 600, 600+w.refilled(300))
	b.mustHaveRefused("the limit of game", b.limitOver("game", 0), 1200, got, b.repeated)
	b.mustBe("game, a neighbour", b.datagrams(b.next(b.side.stranger), gamePorts(), small(500)...), 500, 500)
	b.mustBe("game from the office", b.datagrams(b.side.office, gamePorts(), small(1500)...), 1500, 1500)
	b.mustBe("udp of no service", b.datagrams(from, []uint16{nobodysPort}, small(500)...), 500, 500)
}

// A relay may have 2,000 an hour at once, were it not for the 1,000 a second of all services together.
func (b *exampleBench) mustLimitGlobally() {
	b.t.Helper()
	before, repeated, w := b.limitOver("", 0), b.repeated, open()
	got := b.connections(tries{25, true, 2000, 0}, b.next(b.side.relay))
	b.mustBe("all services together", got, 1000, 1000+w.refilled(1000))
	b.mustHaveRefused("the global limit", b.limitOver("", 0)-before, 2000, got, repeated)
	if refused := b.limitOver("mail", 1); refused != 0 {
		b.t.Errorf("the limit of relays refused %d", refused)
	}
}

// Who has downloaded more than 20 MB within a minute is banned for ten, and who goes on after his 3 logins for an hour.
func (b *exampleBench) mustBan() {
	b.t.Helper()
	b.servers[8443].Close()
	files := netip.AddrPortFrom(b.side.named, 8443)
	b.fileServer(files)
	downloads, insists := b.next(b.side.stranger), b.next(b.side.stranger)
	conn := b.dial(downloads, files)
	b.mustBeBanned(b.goOn(conn), downloads, 10*time.Minute, "1 strike at web")
	if err := testenv.Abort(conn); err != nil {
		b.t.Error(err)
	}
	b.change(func(i *datapath.Instance) error {
		_, err := i.LiftBans()
		return err
	})
	for range 12 {
		_ = testenv.Connect(b.Client, insists, netip.AddrPortFrom(b.side.other, 22), exampleTimeout)
	}
	bans := b.bans()
	if len(bans) != 1 {
		b.t.Fatalf("bans of who insists: %+v; %v", bans, b.tally())
	}
	b.mustBeBanned(bans[0], insists, time.Hour, "5 strikes at ssh")
	b.mustBe("web from who is banned at ssh", b.connections(tries{80, true, 5, 0}, insists), 0, 0)
}

func (b *exampleBench) mustBeBanned(ban datapath.Entry, source netip.Addr, length time.Duration, why string) {
	b.t.Helper()
	if got := ban.Expires.Sub(ban.Created); !ban.Prefix.Contains(source) || got != length || ban.Reason != why {
		b.t.Errorf("%s is banned for %s: %s; want %s for %s: %s", ban.Prefix, got, ban.Reason, source, length, why)
	}
}

// Who is blocked gets no answer from any port, and who is allowed is not counted on any.
func (b *exampleBench) mustKeepLists() {
	b.t.Helper()
	for _, port := range []uint16{80, nobodysPort} {
		b.mustBe("connections of a blocked source", b.connections(tries{port, true, 5, 0}, b.side.denied), 0, 0)
	}
	b.mustBe("datagrams of a blocked source", b.datagrams(b.side.denied, []uint16{27015, nobodysPort}, small(10)...), 0, 0)
	b.mustConnect("web from the office", tries{80, true, 300, 0}, b.side.office)
	b.mustConnect("mail from the office", tries{25, true, 150, 0}, b.side.office)
}

// What is in no service meets no limit.
func (b *exampleBench) mustLeaveAlone() {
	b.t.Helper()
	b.mustConnect("no service", tries{nobodysPort, true, 1500, 0}, b.next(b.side.stranger))
	b.mustHaveJudgedAll()
}
