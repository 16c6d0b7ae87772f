// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"
)

const (
	// answerDeadline is for what must come; a lost packet costs one second.
	answerDeadline = 5 * time.Second
	// silence is for what must not come; it is below the first repeat of a SYN.
	silence = 200 * time.Millisecond
)

func listen(t *testing.T, ns *Namespace, addr netip.Addr, opts ServerOptions) *Server {
	t.Helper()
	return NewServer(t, ns, netip.AddrPortFrom(addr, 0), opts)
}

func TestPairConnectsBothFamiliesAtOnce(t *testing.T) {
	for _, opts := range []PairOptions{{}, {GRO: true}, {Resolve: true}} {
		p := NewPair(t, opts)
		for src, dst := range map[netip.Addr]netip.Addr{p.ClientIP4: p.ServerIP4, p.ClientIP6: p.ServerIP6} {
			s := listen(t, p.Server, dst, ServerOptions{})
			if err := Connect(p.Client, src, s.Addr(), answerDeadline); err != nil {
				t.Errorf("%+v: %v", opts, err)
			}
			if s.Count(src) != 1 || s.Total() != 1 {
				t.Errorf("%+v: counted %v, want one from %s", opts, s.Counts(), src)
			}
		}
	}
}

func TestServerOnBothFamiliesShowsIPv4AsIPv4(t *testing.T) {
	p := NewPair(t, PairOptions{})
	s := listen(t, p.Server, netip.IPv6Unspecified(), ServerOptions{})
	dst := netip.AddrPortFrom(p.ServerIP4, s.Addr().Port())
	if err := Connect(p.Client, p.ClientIP4, dst, answerDeadline); err != nil {
		t.Fatal(err)
	}
	if s.Count(p.ClientIP4) != 1 {
		t.Errorf("counted %v, want one from %s", s.Counts(), p.ClientIP4)
	}
}

func TestThousandClientAddresses(t *testing.T) {
	var addrs []netip.Addr
	v4, v6 := netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("fd78::1")
	for range 500 {
		addrs = append(addrs, v4, v6)
		v4, v6 = v4.Next(), v6.Next()
	}
	begin := time.Now()
	p := NewPair(t, PairOptions{ClientAddrs: addrs})
	t.Logf("a pair with %d addresses took %v", len(addrs), time.Since(begin))
	s4 := listen(t, p.Server, p.ServerIP4, ServerOptions{})
	s6 := listen(t, p.Server, p.ServerIP6, ServerOptions{})
	for _, addr := range []netip.Addr{addrs[0], addrs[1], addrs[998], addrs[999]} {
		s := s4
		if addr.Is6() {
			s = s6
		}
		if err := Connect(p.Client, addr, s.Addr(), answerDeadline); err != nil || s.Count(addr) != 1 {
			t.Errorf("from %s: %v, counted %d", addr, err, s.Count(addr))
		}
	}
}

func TestClientPrefix(t *testing.T) {
	p := NewPair(t, PairOptions{ClientPrefixes: []netip.Prefix{
		netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("fd79::/32"),
	}})
	for src, dst := range map[string]netip.Addr{"198.19.200.9": p.ServerIP4, "fd79:0:7::9": p.ServerIP6} {
		s, src := listen(t, p.Server, dst, ServerOptions{}), netip.MustParseAddr(src)
		if err := Connect(p.Client, src, s.Addr(), answerDeadline); err != nil || s.Count(src) != 1 {
			t.Errorf("from %s: %v, counted %d", src, err, s.Count(src))
		}
	}
	if err := p.AddClientPrefix(netip.MustParsePrefix("10.77.0.0/24")); err == nil {
		t.Error("a prefix that holds the server was taken")
	}
}

func TestAddressesThatAreAddedLaterAreReached(t *testing.T) {
	p := NewPair(t, PairOptions{})
	for _, c := range []struct{ src, dst string }{{"10.77.200.3/16", "10.77.250.1/16"}, {"fd77::99/64", "fd77::8000:0:0:77/64"}} {
		if err := errors.Join(p.Client.AddAddr(p.ClientIf, c.src), p.Server.AddAddr(p.ServerIf, c.dst)); err != nil {
			t.Fatal(err)
		}
		src, dst := netip.MustParsePrefix(c.src).Addr(), netip.MustParsePrefix(c.dst).Addr()
		s := listen(t, p.Server, dst, ServerOptions{})
		if err := Connect(p.Client, src, s.Addr(), answerDeadline); err != nil {
			t.Error(err)
		}
	}
}

func TestPairIsSilent(t *testing.T) {
	p := NewPair(t, PairOptions{ClientAddrs: []netip.Addr{netip.MustParseAddr("fd77::4:5")}})
	// Silence lasts at least as long as this: attempts that are refused are one packet each way.
	const attempts = 50
	got, err := Hammer(p.Client, HammerOptions{
		Sources: []netip.Addr{p.ClientIP6}, Dst: netip.AddrPortFrom(p.ServerIP6, 1),
		Count: attempts, Rate: 100, Timeout: answerDeadline,
	})
	if err != nil || got.Refused != attempts {
		t.Fatalf("result %+v, error %v", got, err)
	}
	for ns, ifname := range map[*Namespace]string{p.Server: p.ServerIf, p.Client: p.ClientIf} {
		link, err := ns.Netlink().LinkByName(ifname)
		if err != nil {
			t.Fatal(err)
		}
		if sent := link.Attrs().Statistics.TxPackets; sent != attempts {
			t.Errorf("%s sent %d packets, want %d", ifname, sent, attempts)
		}
	}
}

func TestHoldKeepsConnections(t *testing.T) {
	p := NewPair(t, PairOptions{})
	s := listen(t, p.Server, p.ServerIP4, ServerOptions{Hold: true, Silent: true})
	for range 3 {
		conn, err := Dial(p.Client, p.ClientIP4, s.Addr(), answerDeadline)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	WaitFor(t, answerDeadline, "three open connections", func() bool { return s.Open() == 3 })
	conn, err := Dial(p.Client, p.ClientIP4, s.Addr(), answerDeadline)
	if err != nil {
		t.Fatal(err)
	}
	WaitFor(t, answerDeadline, "the fourth", func() bool { return s.Open() == 4 })
	if err := Abort(conn); err != nil {
		t.Error(err)
	}
	WaitFor(t, answerDeadline, "the aborted connection to go", func() bool { return s.Open() == 3 })
	s.Close()
	if s.Open() != 0 || s.Total() != 4 {
		t.Errorf("after close %d open, %d counted, want 0 and 4", s.Open(), s.Total())
	}
}

func TestChosenPortCanBeTakenAgain(t *testing.T) {
	p := NewPair(t, PairOptions{})
	s := listen(t, p.Server, p.ServerIP4, ServerOptions{Hold: true})
	src := netip.AddrPortFrom(p.ClientIP4, 4321)
	for range 3 {
		conn, err := DialFrom(p.Client, src, s.Addr(), answerDeadline)
		if err != nil {
			t.Fatal(err)
		}
		if got := addrPort(conn.LocalAddr()); got != src {
			t.Errorf("connected from %s, want %s", got, src)
		}
		if err := awaitGreeting(conn, answerDeadline); err != nil {
			t.Error(err)
		}
		WaitFor(t, answerDeadline, "the server to see the abort", func() bool { return s.Open() == 0 })
	}
}

func TestHowAttemptsEnd(t *testing.T) {
	p := NewPair(t, PairOptions{})
	silent := listen(t, p.Server, p.ServerIP4, ServerOptions{Hold: true, Silent: true})
	// The server gets this and does not forward it.
	lost := netip.MustParseAddr("10.77.0.200")
	for _, c := range []struct {
		name string
		dst  netip.AddrPort
		want error
	}{
		{"nobody there", netip.AddrPortFrom(lost, 80), ErrNoAnswer},
		{"no listener", netip.AddrPortFrom(p.ServerIP4, 1), ErrRefused},
		{"no greeting", silent.Addr(), ErrNotServed},
	} {
		begin := time.Now()
		if err := Connect(p.Client, p.ClientIP4, c.dst, silence); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if took := time.Since(begin); took > answerDeadline {
			t.Errorf("%s: took %v", c.name, took)
		}
	}
}

func TestHammerCounts(t *testing.T) {
	extra := netip.MustParseAddr("10.77.3.4")
	p := NewPair(t, PairOptions{ClientAddrs: []netip.Addr{extra}})
	s := listen(t, p.Server, p.ServerIP4, ServerOptions{})
	got, err := Hammer(p.Client, HammerOptions{
		Sources: []netip.Addr{p.ClientIP4, extra}, Dst: s.Addr(), Count: 300, Rate: 1000, Timeout: answerDeadline,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Attempted != 300 || got.Accepted != 300 || s.Count(extra) != 150 || s.Count(p.ClientIP4) != 150 {
		t.Errorf("result %+v, server counted %v", got, s.Counts())
	}
	if least := 299 * time.Millisecond; got.Elapsed < least {
		t.Errorf("300 at 1000 a second took %v, want at least %v", got.Elapsed, least)
	}
	refused, err := Hammer(p.Client, HammerOptions{
		Sources: []netip.Addr{p.ClientIP4}, Dst: netip.AddrPortFrom(p.ServerIP4, 1),
		Rate: 200, Duration: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if refused.Attempted == 0 || refused.Attempted > 20 || refused.Refused != refused.Attempted {
		t.Errorf("result %+v, want at most 20, all refused", refused)
	}
}

func TestHammerRefusesToRunForEver(t *testing.T) {
	p := NewPair(t, PairOptions{})
	if _, err := Hammer(p.Client, HammerOptions{Sources: []netip.Addr{p.ClientIP4}, Dst: netip.AddrPortFrom(p.ServerIP4, 1)}); err == nil {
		t.Error("neither count nor duration was given, and it ran")
	}
}

func TestManyShortConnectionsDoNotUseUpPorts(t *testing.T) {
	p := NewPair(t, PairOptions{})
	s := listen(t, p.Server, p.ServerIP4, ServerOptions{})
	if err := p.Client.SetSysctl("net.ipv4.ip_local_port_range", "50000 50999"); err != nil {
		t.Fatal(err)
	}
	// One after the other: how many are open at once depends on how busy the machine is.
	for n := range 3000 {
		if err := Connect(p.Client, p.ClientIP4, s.Addr(), answerDeadline); err != nil {
			t.Fatalf("connection %d of 3000 over 1000 ports: %v", n, err)
		}
	}
}

func TestServerResetClearsCounts(t *testing.T) {
	p := NewPair(t, PairOptions{})
	s := listen(t, p.Server, p.ServerIP4, ServerOptions{})
	if err := Connect(p.Client, p.ClientIP4, s.Addr(), answerDeadline); err != nil {
		t.Fatal(err)
	}
	if got := slices.Collect(maps.Keys(s.Counts())); len(got) != 1 {
		t.Errorf("sources %v, want one", got)
	}
	s.Reset()
	if s.Total() != 0 || s.Count(p.ClientIP4) != 0 {
		t.Errorf("after reset %v", s.Counts())
	}
}
