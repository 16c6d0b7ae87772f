// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
)

// An IPv4 client of an IPv6 socket is counted as the IPv4 client that it is, an IPv6 client by its /64.
func TestConcurrentMappedAddress(t *testing.T) {
	b := newConnBench(t, 2)
	at := netip.AddrPortFrom(netip.IPv6Unspecified(), 8080)
	b.listen(at, 64)
	for _, c := range []struct{ client, server netip.Addr }{{b.ClientIP4, b.ServerIP4}, {b.ClientIP6, b.ServerIP6}} {
		to := netip.AddrPortFrom(c.server, 8080)
		one, two := b.dial(c.client, to), b.dial(c.client, to)
		b.mustCountAt("default", c.client, 2)
		if _, err := testenv.Dial(b.Client, c.client, to, 300*time.Millisecond); err == nil {
			t.Errorf("%s: a third connection was made", c.client)
		}
		_, _ = one.Close(), two.Close()
	}
}

// Connections through SYN cookies are counted and limited like any other.
func TestConcurrentSynCookies(t *testing.T) {
	b := newConnBench(t, 100)
	if err := b.Server.SetSysctl("net/ipv4/tcp_syncookies", "2"); err != nil {
		t.Fatal(err)
	}
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	open := b.begin(server.Addr(), 400)
	b.mustCount(100)
	testenv.WaitFor(t, connsDeadline, "the server to accept 100", func() bool { return server.Total() >= 100 })
	testenv.WaitFor(t, connsDeadline, "the others to be refused", func() bool {
		return b.packets("over_concurrent")+b.tallies().Refused >= 600
	})
	b.mustCount(100)
	if got := server.Total(); got != 100 {
		t.Errorf("the server accepted %d", got)
	}
	open.abort()
	b.mustBeZero()
}

// fastOpen dials with data in the SYN.
func (b connBench) fastOpen(to netip.AddrPort) (fd int) {
	b.t.Helper()
	err := b.Client.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Sendto(fd, []byte("hello"), unix.MSG_FASTOPEN, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// A connection of TCP Fast Open is there before its last ACK. It is counted when that comes, once.
func TestConcurrentFastOpen(t *testing.T) {
	b := newConnBench(t, 100)
	for _, ns := range []*testenv.Namespace{b.Server, b.Client} {
		if err := sysctl("net/ipv4/tcp_fastopen", "519")(ns); err != nil { // 0x207: client, server, no cookie needed
			t.Fatal(err)
		}
	}
	at := netip.AddrPortFrom(b.ServerIP4, 8080)
	fd := b.listen(at, 64, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 64) })
	for n := range uint64(3) {
		client := b.fastOpen(at)
		conn, _, err := unix.Accept(fd)
		if err != nil {
			t.Fatal(err)
		}
		b.mustCount(1)
		if info, err := unix.GetsockoptTCPInfo(client, unix.IPPROTO_TCP, unix.TCP_INFO); err != nil || info.Options&0x20 == 0 {
			t.Errorf("connection %d: its data did not go with the SYN: %v", n, err)
		}
		_, _ = unix.Close(conn), unix.Close(client)
		b.mustBeZero()
	}
}

// MPTCP subflows are TCP connections and counted as such.
func TestConcurrentMultipath(t *testing.T) {
	b := newConnBench(t, 2)
	const mptcp = 262
	at := netip.AddrPortFrom(b.ServerIP4, 8080)
	listener := &net.ListenConfig{}
	listener.SetMultipathTCP(true)
	dialer := &net.Dialer{Timeout: 700 * time.Millisecond}
	dialer.SetMultipathTCP(true)
	if _, err := os.Stat("/proc/sys/net/mptcp"); os.IsNotExist(err) {
		t.Skip("this kernel is built without MPTCP (CONFIG_MPTCP)")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, mptcp)
	if err != nil {
		t.Fatalf("this kernel has MPTCP, and makes no socket of it: %v", err)
	}
	_ = unix.Close(fd)
	var l net.Listener
	err = b.Server.Do(func() (err error) { l, err = listener.Listen(t.Context(), "tcp", at.String()); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var open []net.Conn
	dial := func() (err error) {
		return b.Client.Do(func() error {
			conn, err := dialer.Dial("tcp", at.String())
			if err == nil {
				open = append(open, conn)
			}
			return err
		})
	}
	for range 2 {
		if err := dial(); err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if multi, err := conn.(*net.TCPConn).MultipathTCP(); err != nil || !multi {
			t.Errorf("not MPTCP: %v", err)
		}
		open = append(open, conn)
	}
	b.mustCount(2)
	if err := dial(); err == nil {
		t.Error("a third connection was made")
	}
	for _, conn := range open {
		_ = conn.Close()
	}
	b.mustBeZero()
}

// Requests and connections that migrate to another listener of a group keep their one place.
func TestConcurrentReusePortMigration(t *testing.T) {
	b := newConnBench(t, 100)
	if err := b.Server.SetSysctl("net/ipv4/tcp_migrate_req", "1"); err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(b.ServerIP4, 8080)
	reuse := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }
	first, second := b.listen(at, 64, reuse), b.listen(at, 64, reuse)
	for range 16 {
		b.dial(b.ClientIP4, at)
	}
	b.mustCount(16)
	c := b.craft("10.77.9.9")
	var flows []craftFlow
	for n := range uint16(16) {
		flows = append(flows, craftFlow{20000 + n, at.Port()})
	}
	c.halfOpen(flows, 1)
	_ = unix.Close(first)
	for _, f := range flows {
		c.send(f, 0x10)
	}
	b.mustCountAt("default", c.src, 16)
	b.mustCount(16)
	_ = unix.Close(second)
	b.mustBeZero()
}
