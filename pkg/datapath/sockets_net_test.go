// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// Addresses that no other test has: sockets are closed in every network namespace of the machine.
var (
	victim4, victim6 = netip.MustParseAddr("100.99.231.7"), netip.MustParseAddr("fd99:231::7")
	near4, near6     = netip.MustParseAddr("100.99.231.8"), netip.MustParseAddr("fd99:231::8")
)

// accepted makes a connection from an address to a listener of the server and returns the server's end.
func (b *bench) accepted(at string, from netip.Addr) net.Conn {
	b.t.Helper()
	var listener net.Listener
	err := b.Server.Do(func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", at)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = listener.Close() })
	to := b.ServerIP6
	if from.Is4() {
		to = b.ServerIP4
	}
	port := netip.MustParseAddrPort(listener.Addr().String()).Port()
	client, err := testenv.Dial(b.Client, from, netip.AddrPortFrom(to, port), 900*time.Millisecond)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = client.Close() })
	conn, err := listener.Accept()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// connectedUDP is a socket of the server. An IPv4 address is reached by IPv6's way if it is mapped.
func (b *bench) connectedUDP(to netip.Addr) net.Conn {
	b.t.Helper()
	fd := -1
	err := b.Server.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrInet6{Port: 9, Addr: to.As16()})
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return socketOf(b.t, fd)
}

func socketOf(t *testing.T, fd int) net.Conn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "udp")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// mustBeClosed wants a read to end because the socket was closed from outside.
func mustBeClosed(t *testing.T, name string, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err := conn.Read(make([]byte, 1))
	if !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("%s: read: %v, want it aborted", name, err)
	}
}

func mustBeOpen(t *testing.T, name string, conn net.Conn) {
	t.Helper()
	if _, err := conn.Write([]byte{1}); err != nil {
		t.Errorf("%s: write: %v, want it open", name, err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%s: read: %v, want it to wait", name, err)
	}
}

// Just the sockets whose peer is chosen are closed, TCP and UDP, also of IPv4 on IPv6, in a namespace that is not
// the caller's; a second time there is nothing to close.
func TestCloseSockets(t *testing.T) {
	b := newBench(t, testenv.PairOptions{ClientAddrs: []netip.Addr{victim4, victim6, near4, near6}})
	mapped := func(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }
	die := map[string]net.Conn{
		"TCP, IPv4": b.accepted("10.77.0.1:0", victim4), "TCP, IPv4 on IPv6": b.accepted("[::]:0", victim4), "TCP, IPv6": b.accepted("[::]:0", victim6),
		"UDP, IPv4 on IPv6": b.connectedUDP(mapped(victim4)), "UDP, IPv6": b.connectedUDP(victim6),
	}
	live := map[string]net.Conn{
		"TCP, IPv4": b.accepted("10.77.0.1:0", near4), "TCP, IPv4 on IPv6": b.accepted("[::]:0", near4), "TCP, IPv6": b.accepted("[::]:0", near6),
		"UDP, IPv4 on IPv6": b.connectedUDP(mapped(near4)), "UDP, IPv6": b.connectedUDP(near6),
	}
	chosen := func(peer netip.Addr) bool { return peer == victim4 || peer == victim6 }
	got, err := datapath.CloseSockets(chosen)
	if err != nil || got != (datapath.ClosedSockets{TCP: 3, UDP: 2}) {
		t.Errorf("closed %+v, %v; want 3 TCP and 2 UDP", got, err)
	}
	for name, conn := range die {
		mustBeClosed(t, name, conn)
	}
	for name, conn := range live {
		mustBeOpen(t, name, conn)
	}
	if again, err := datapath.CloseSockets(chosen); err != nil || again != (datapath.ClosedSockets{}) {
		t.Errorf("again: closed %+v, %v; want none", again, err)
	}
	b.accepted("10.77.0.1:0", victim4) // nothing else was done to it
}
