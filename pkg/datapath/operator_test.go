// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOperatorStageIsToldByTheTitle(t *testing.T) {
	for _, c := range []struct {
		command, title string
		stage          sshStage
		who            string
	}{
		{"sshd", "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", stageListener, "sshd"},
		{"sshd", "sshd: sshd [listener] 1 of 10-100 startups", stageListener, "sshd"},
		{"sshd", "/usr/sbin/sshd\x00-D\x00-R\x00", stageLogin, "sshd"},
		{"sshd", "sshd: [rexeced]", stageLogin, ""},
		{"sshd", "sshd: [accepted]\x00\x00\x00", stageLogin, ""},
		{"sshd", "sshd: [net]", stageLogin, ""},
		{"sshd", "sshd: unknown [priv]", stageLogin, "unknown"},
		{"sshd", "sshd: alice [pam]", stageLogin, "alice"},
		{"sshd", "sshd: alice@corp.example [priv]", stageLogin, "alice@corp.example"},
		{"sshd", "sshd: alice", stageSession, "alice"},
		{"sshd", "sshd: alice@notty", stageSession, "alice@notty"},
		{"sshd", "sshd: alice@pts/0,pts/1", stageSession, "alice@pts/0,pts/1"},
		{"sshd", "sshd: alice@corp.example@pts/0", stageSession, "alice@corp.example@pts/0"},
		{"sshd", "sshd-2222: alice@pts/0", stageSession, "alice@pts/0"},
		{"sshd", "sshd: CORP\\domain users@pts/3", stageSession, "CORP\\domain users@pts/3"},
		{"sshd-session", "/usr/lib/openssh/sshd-session\x00-D\x00-R\x00", stageLogin, "sshd-session"},
		{"sshd-session", "sshd-session: root [priv]", stageLogin, "root"},
		{"sshd-session", "sshd-session: root@pts/0", stageSession, "root@pts/0"},
		{"sshd-auth", "sshd-auth: root [net]", stageLogin, "sshd-auth"},
		{"sshd-auth", "/usr/lib/openssh/sshd-auth\x00-D\x00-R\x00", stageLogin, "sshd-auth"},
		// Nothing is known of these.
		{"sshd", "", stageSession, "sshd"},
		{"sshd", "/usr/sbin/sshd\x00-i\x00", stageSession, "sshd"},
		{"sshd", "sshd:", stageSession, "sshd"},
		{"dropbear", "/usr/sbin/dropbear\x00-p\x0022\x00", stageSession, "dropbear"},
		{"sshd", "sshd: \x1b[2Jeve\n@pts/0", stageSession, "?[2Jeve @pts/0"},
		{"sshd", "sshd: " + strings.Repeat("e", 1000), stageSession, strings.Repeat("e", 64)},
	} {
		if stage, who := sshStageOf(c.command, []byte(c.title)); stage != c.stage || who != c.who {
			t.Errorf("%s with title %q: stage %d, who %q; want %d, %q", c.command, c.title, stage, who, c.stage, c.who)
		}
	}
}

func TestOperatorSocketsAreDecided(t *testing.T) {
	end := netip.MustParseAddrPort
	listener := &sshProcess{pid: 1, stage: stageListener, who: "sshd", own: true, netns: "a"}
	monitor := &sshProcess{pid: 2, stage: stageLogin, who: "alice", netns: "a"}
	shell := &sshProcess{pid: 3, who: "alice@pts/0", netns: "a"}
	login := &sshProcess{pid: 4, stage: stageLogin, who: "unknown", netns: "a"}
	ownMonitor := &sshProcess{pid: 5, stage: stageLogin, who: "bob", own: true, netns: "a"}
	ownShell := &sshProcess{pid: 6, who: "bob@notty", own: true, netns: "a"}
	inetd := &sshProcess{pid: 7, who: "carol", netns: "b"}
	listening := func(at string, by ...*sshProcess) sshSocket {
		return sshSocket{tcpSocket{local: end(at), listening: true}, by}
	}
	connected := func(peer, local string, by ...*sshProcess) sshSocket {
		return sshSocket{tcpSocket{local: end(local), peer: end(peer)}, by}
	}
	for _, c := range []struct {
		name    string
		sockets []sshSocket
		want    []Operator
	}{
		{"the shell says more than the monitor",
			[]sshSocket{connected("192.0.2.1:1", "192.0.2.9:22", monitor, shell)},
			[]Operator{{Peer: end("192.0.2.1:1"), Local: end("192.0.2.9:22"), Who: "alice@pts/0"}}},
		{"nor has who did not log in, nor whom the listener just accepted",
			[]sshSocket{connected("192.0.2.1:1", "192.0.2.9:22", login), connected("192.0.2.1:2", "192.0.2.9:22", listener)}, nil},
		{"own, even if only the monitor is seen",
			[]sshSocket{connected("192.0.2.1:1", "192.0.2.9:22", ownMonitor)},
			[]Operator{{Peer: end("192.0.2.1:1"), Local: end("192.0.2.9:22"), Who: "bob", Own: true}}},
		{"own, and the shell says more",
			[]sshSocket{connected("192.0.2.1:1", "192.0.2.9:22", ownShell, ownMonitor)},
			[]Operator{{Peer: end("192.0.2.1:1"), Local: end("192.0.2.9:22"), Who: "bob@notty", Own: true}}},
		{"forwarded connections are not of those who logged in",
			[]sshSocket{
				listening("192.0.2.9:22", listener), listening("[::]:22", listener), listening("0.0.0.0:8080", shell),
				connected("203.0.113.1:5", "192.0.2.9:8080", shell), connected("198.51.100.1:443", "192.0.2.9:40000", shell),
				connected("192.0.2.1:1", "192.0.2.9:22", monitor, shell),
			},
			[]Operator{{Peer: end("192.0.2.1:1"), Local: end("192.0.2.9:22"), Who: "alice@pts/0"}}},
		{"all count where it is not known which one it is",
			[]sshSocket{
				listening("0.0.0.0:22", listener), connected("192.0.2.1:1", "192.0.2.9:22", inetd),
				connected("192.0.2.2:1", "192.0.2.9:2022", inetd),
			},
			[]Operator{
				{Peer: end("192.0.2.1:1"), Local: end("192.0.2.9:22"), Who: "carol", Netns: "b 7"},
				{Peer: end("192.0.2.2:1"), Local: end("192.0.2.9:2022"), Who: "carol", Netns: "b 7"},
			}},
	} {
		got := operatorsOf(c.sockets, func(netns string, pid int) string {
			if netns == "a" {
				return ""
			}
			return fmt.Sprint(netns, " ", pid)
		})
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestOperatorOwnComesFirst(t *testing.T) {
	op := func(peer string, own bool) Operator {
		return Operator{Peer: netip.MustParseAddrPort(peer), Local: netip.MustParseAddrPort("192.0.2.9:22"), Own: own}
	}
	ops := []Operator{op("[2001:db8::1]:1", false), op("192.0.2.20:9", false), op("192.0.2.20:8", false), op("192.0.2.3:1", false)}
	c, ok := parseSSHConnection("::ffff:192.0.2.20 9 192.0.2.9 22")
	if !ok {
		t.Fatal("not read")
	}
	markOwn(ops, c)
	stale, _ := parseSSHConnection("192.0.2.3 2 192.0.2.9 22")
	markOwn(ops, stale)
	slices.SortFunc(ops, compareOperators)
	want := []Operator{op("192.0.2.20:9", true), op("192.0.2.3:1", false), op("192.0.2.20:8", false), op("[2001:db8::1]:1", false)}
	if !slices.Equal(ops, want) {
		t.Errorf("%v, want %v", ops, want)
	}
	for _, bad := range []string{"", "192.0.2.1 1 192.0.2.9", "192.0.2.1 70000 192.0.2.9 22", "UNKNOWN 65535 UNKNOWN 65535"} {
		if c, ok := parseSSHConnection(bad); ok {
			t.Errorf("%q was read as %v", bad, c)
		}
	}
	if c, ok := parseSSHConnection("fe80::1%eth0 1 fe80::2%eth0 22"); !ok || c.client != netip.MustParseAddrPort("[fe80::1]:1") {
		t.Errorf("a link-local connection was read as %v", c)
	}
}

// Both ways to learn what a socket is say the same, and neither takes for a connection what is none.
func TestOperatorSocketsAreRead(t *testing.T) {
	type fdOf interface{ File() (*os.File, error) }
	held := &sshProcess{pid: os.Getpid(), sockets: map[uint64]int{}}
	wanted := map[uint64]bool{}
	hold := func(c fdOf) uint64 {
		t.Helper()
		file, err := c.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		var st unix.Stat_t
		if err := unix.Fstat(int(file.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		held.sockets[st.Ino], wanted[st.Ino] = int(file.Fd()), true
		return st.Ino
	}
	want := map[uint64]tcpSocket{}
	for _, c := range []struct{ listen, dial string }{
		{"127.0.0.1:0", "127.0.0.1"}, {"[::1]:0", "::1"}, {"[::]:0", "127.0.0.1"},
	} {
		listener, err := net.Listen("tcp", c.listen)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
		at := netip.MustParseAddrPort(listener.Addr().String())
		want[hold(listener.(*net.TCPListener))] = tcpSocket{local: at, listening: true}
		client, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(c.dial), port).String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		peer := netip.MustParseAddrPort(client.LocalAddr().String())
		want[hold(server.(*net.TCPConn))] = tcpSocket{local: netip.AddrPortFrom(peer.Addr(), port), peer: peer}
		// One that the peer has closed is not established any more.
		half, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(c.dial), port).String())
		if err != nil {
			t.Fatal(err)
		}
		closing, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer closing.Close()
		_ = half.Close()
		if n, err := closing.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Fatalf("read %d, %v from a closed connection", n, err)
		}
		hold(closing.(*net.TCPConn))
	}
	udp, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	hold(udp.(*net.UDPConn))

	borrowed, listed := map[uint64]tcpSocket{}, map[uint64]tcpSocket{}
	if refused := borrowSockets(held, borrowed); len(refused) != 0 {
		t.Errorf("%d sockets could not be borrowed", len(refused))
	}
	// The thread's, as the first thread of a process with other tests may be lost to some namespace.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := readSocketTable(unix.Gettid(), wanted, listed); err != nil {
		t.Error(err)
	}
	if !maps.Equal(borrowed, want) {
		t.Errorf("borrowed %v, want %v", borrowed, want)
	}
	if !maps.Equal(listed, want) {
		t.Errorf("listed %v, want %v", listed, want)
	}
}
