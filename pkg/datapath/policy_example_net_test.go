// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// exampleSide is one family's view of the example: addresses of the server, one named by the policy and one that
// is not, and who comes.
type exampleSide struct {
	named, other                    netip.Addr
	office, relay, stranger, denied netip.Addr
	// customer is the n-th of a network that is limited as a whole; the first is 0.
	customer func(n int) netip.Addr
}

func exampleSides() map[string]exampleSide {
	a := netip.MustParseAddr
	v4, v6 := a("198.18.24.0").As4(), a("2001:db9:24::1").As16()
	return map[string]exampleSide{
		"IPv4": {
			a("203.0.113.10"), a("10.77.0.1"), a("192.0.2.7"), a("198.51.100.0"), a("198.18.1.0"), a("198.18.66.6"),
			func(n int) netip.Addr { v4[3] = byte(n); return netip.AddrFrom4(v4) },
		},
		"IPv6": {
			a("2001:db8::10"), a("fd77::1"), a("2001:db8:1::7"), a("2001:db8:2::1"), a("2001:db9:1::1"), a("2001:db9:66::6"),
			func(n int) netip.Addr { v6[7] = byte(n); return netip.AddrFrom16(v6) },
		},
	}
}

// exampleBench is a host that serves all that the example names, on two addresses of either family.
type exampleBench struct {
	*bench
	servers map[uint16]*testenv.Server
	udp     *testenv.Receiver
	side    exampleSide
	// fresh is how many strangers and relays have come: each case has its own.
	fresh int
	// repeated is how many SYNs connections have sent again.
	repeated int
}

// exampleTimeout is long for an answer that comes, and short enough for one SYN and no second, unless the machine stands
// still.
const exampleTimeout = 500 * time.Millisecond

const quicVersion1 = 1

// nobodysPort is served and in no service.
const nobodysPort = 9999

// gamePorts are those of the service game.
func gamePorts() (ports []uint16) {
	for port := uint16(27015); port <= 27030; port++ {
		ports = append(ports, port)
	}
	return ports
}

// exampleClients are the networks that clients come from.
func exampleClients() (from []netip.Prefix) {
	for _, p := range []string{"192.0.2.0/24", "198.51.100.0/24", "198.18.0.0/15", "2001:db8:1::/48", "2001:db8:2::/48", "2001:db9::/32"} {
		from = append(from, netip.MustParsePrefix(p))
	}
	return from
}

func newExampleBench(t *testing.T, mode datapath.Mode) *exampleBench {
	t.Helper()
	b := &exampleBench{bench: newBench(t, testenv.PairOptions{ClientPrefixes: exampleClients()}), servers: map[uint16]*testenv.Server{}}
	for _, side := range exampleSides() {
		host := netip.PrefixFrom(side.named, side.named.BitLen())
		if err := b.Server.AddAddrs(b.ServerIf, host); err != nil {
			t.Fatal(err)
		}
		if err := b.Client.AddRoute(b.ClientIf, host, side.other); err != nil {
			t.Fatal(err)
		}
	}
	b.attach(mode, nil)
	if mode == datapath.ModeNative {
		b.watchClient()
	}
	p := parseExample(t, forOneSource(examplePolicy))
	b.change(func(i *datapath.Instance) error { return i.Apply(datapath.ApplyOptions{Policy: p, By: "test"}) })
	for _, port := range []uint16{80, 443, 8443, 22, 25, nobodysPort} {
		b.servers[port] = testenv.NewServer(t, b.Server, netip.AddrPortFrom(netip.IPv6Unspecified(), port), testenv.ServerOptions{})
	}
	b.udp = testenv.NewReceiver(t, b.Server, append(gamePorts(), 443, nobodysPort)...)
	return b
}

// next is an address that has not come yet, beside a first one: another source of either family.
func (b *exampleBench) next(first netip.Addr) netip.Addr {
	b.fresh++
	if first.Is4() {
		a := first.As4()
		a[3] += byte(b.fresh)
		return netip.AddrFrom4(a)
	}
	a := first.As16()
	a[7] += byte(b.fresh)
	return netip.AddrFrom16(a)
}

// tries is one round of connections.
type tries struct {
	port  uint16
	named bool
	count int
	rate  float64
}

// window is a time by the test's clock that holds all packets of a case.
type window struct{ begin time.Time }

func open() window { return window{time.Now()} }

// refilled is how much a rate a second may have given back.
func (w window) refilled(perSecond float64) int {
	return int(time.Since(w.begin).Seconds()*perSecond) + 1
}

// mustConnect waits for each, however long that takes.
func (b *exampleBench) mustConnect(what string, tries tries, source netip.Addr) {
	b.t.Helper()
	b.mustBe(what, b.connect(tries, streamPatience, source), tries.count, tries.count)
}

// connections are made and counted as the server took them: one SYN each, but for what repeated says.
func (b *exampleBench) connections(tries tries, sources ...netip.Addr) (accepted int) {
	b.t.Helper()
	return b.connect(tries, exampleTimeout, sources...)
}

func (b *exampleBench) connect(tries tries, timeout time.Duration, sources ...netip.Addr) (accepted int) {
	b.t.Helper()
	to := b.side.other
	if tries.named {
		to = b.side.named
	}
	server := b.servers[tries.port]
	server.Reset()
	before := b.clientCounter("netstat", "TcpExt:", "TCPSynRetrans")
	_, err := testenv.Hammer(b.Client, testenv.HammerOptions{
		Sources: sources, Dst: netip.AddrPortFrom(to, tries.port), Count: tries.count, Rate: tries.rate, Timeout: timeout,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.repeated += int(b.clientCounter("netstat", "TcpExt:", "TCPSynRetrans") - before)
	for _, source := range sources {
		accepted += server.Count(source)
	}
	return accepted
}

// mustHaveRefused wants all SYNs since that were not taken to be refused by one limit. One that came again may have been
// admitted twice.
func (b *exampleBench) mustHaveRefused(what string, refused uint64, tried, got, repeated int) {
	b.t.Helper()
	// In a guest a client may give up on an answer that is under way: it was admitted, and is not taken.
	b.mustBe(what+" refused", int(refused), often(tried-got, 0), tried-got+b.repeated-repeated)
}

func (b *exampleBench) mustBe(what string, got, least, most int) {
	b.t.Helper()
	if got < least || got > most {
		b.t.Errorf("%s: %d, want %d to %d", what, got, least, most)
	}
}

// datagrams sends to the ports, all from one port, and returns how many of them came.
func (b *exampleBench) datagrams(from netip.Addr, ports []uint16, payloads ...[]byte) int {
	b.t.Helper()
	return b.arrive(from, len(payloads), func() error {
		return testenv.SendDatagrams(b.Client, netip.AddrPortFrom(from, 0), b.side.named, ports, payloads...)
	})
}

// quic begins connections, each from a port of its own, with so many datagrams each, and returns how many came.
func (b *exampleBench) quic(from netip.Addr, connections, each int) int {
	b.t.Helper()
	return b.arrive(from, connections*each, func() error {
		for id := range uint64(connections) {
			initial := tg.QUICInitial(quicVersion1, binary.BigEndian.AppendUint64(nil, id*0x9e3779b97f4a7c15))
			// By chance two would have one port, and the second may count as a change of the first.
			src := netip.AddrPortFrom(from, uint16(10_000+id))
			err := testenv.SendDatagrams(b.Client, src, b.side.named, []uint16{443}, slices.Repeat([][]byte{initial}, each)...)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// arrive returns how many datagrams of those that send sends have come to the receiver: all that were let
// through.
func (b *exampleBench) arrive(from netip.Addr, count int, send func() error) (came int) {
	b.t.Helper()
	before, tallied := b.udp.Count(from), b.tally()
	if err := send(); err != nil {
		b.t.Fatal(err)
	}
	passed := 0
	for end, n := range b.since(tallied, uint64(count)) {
		if strings.HasSuffix(end, " pass") {
			passed += int(n)
		}
	}
	testenv.WaitFor(b.t, streamPatience, "the receiver to have what was let through", func() bool {
		came = b.udp.Count(from) - before
		return came >= passed
	})
	return came
}

func small(n int) [][]byte { return slices.Repeat([][]byte{[]byte("move")}, n) }

// limitOver is what one limit of the policy in force has refused; service "" is the global ones.
func (b *exampleBench) limitOver(service string, limit int) (n uint64) {
	b.t.Helper()
	b.read(func(i *datapath.Instance) error {
		services, err := i.Services()
		for _, s := range services {
			if s.Name == service {
				n = s.Limits[limit].Over.Packets
			}
		}
		return err
	})
	return n
}

// The policy that the design gives as an example, with real clients on all that it names: exactly its limits.
func TestExamplePolicy(t *testing.T) {
	for _, mode := range []datapath.Mode{datapath.ModeNative, datapath.ModeTC} {
		for name, side := range exampleSides() {
			t.Run(string(mode)+"/"+name, func(t *testing.T) {
				t.Parallel() // it mostly waits for answers that do not come
				b := newExampleBench(t, mode)
				b.side = side
				b.mustLimitWeb()
				b.mustLimitNetworks()
				b.mustLimitQUIC()
				b.mustLimitSSH()
				b.mustLimitMail()
				b.mustLimitGame()
				b.mustLimitGlobally()
				b.mustBan()
				b.mustKeepLists()
				b.mustLeaveAlone()
			})
		}
	}
}
