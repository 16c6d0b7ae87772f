// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
)

// serveForever accepts all connections and holds them until the process is killed.
func serveForever(at string) error {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	var held []net.Conn
	for len(held) < 10_000 {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		held = append(held, conn)
	}
	return nil
}

// dialForever opens a connection and holds it until the process is killed.
func dialForever(to string) error {
	conn, err := net.Dial("tcp", to)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// process runs the test binary as a command in a namespace, until kill.
func (b connBench) process(ns *testenv.Namespace, what string) (kill func()) {
	b.t.Helper()
	return b.processIn(ns, what, "")
}

// processIn runs it in a cgroup, if one is given.
func (b connBench) processIn(ns *testenv.Namespace, what, cgroup string) (kill func()) {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := ns.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+what, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		if err != nil {
			b.t.Fatal(err)
		}
		defer dir.Close()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	kill = func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	b.t.Cleanup(kill)
	return kill
}

// dial opens one connection, which the server holds.
func (b connBench) dial(src netip.Addr, dst netip.AddrPort) *net.TCPConn {
	b.t.Helper()
	conn, err := testenv.Dial(b.Client, src, dst, connsDeadline)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

// listen is a listener of the server's namespace whose connections nobody accepts unless the test does.
func (b connBench) listen(at netip.AddrPort, backlog int, options ...func(fd int) error) int {
	b.t.Helper()
	fd := -1
	err := b.Server.Do(func() (err error) {
		family, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port()), Addr: [4]byte{}})
		if at.Addr().Is6() {
			family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
		}
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		for _, set := range append(options, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }) {
			if err := set(fd); err != nil {
				return err
			}
		}
		if err := unix.Bind(fd, addr); err != nil {
			return err
		}
		return unix.Listen(fd, backlog)
	})
	if err != nil {
		b.t.Fatalf("listen: %v", err)
	}
	b.t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func sysctl(key, value string) func(*testenv.Namespace) error {
	return func(ns *testenv.Namespace) error { return ns.SetSysctl(key, value) }
}

// Every way in which a connection ends frees its place, and at the end nothing is counted.
func TestConcurrentEveryEndFreesThePlace(t *testing.T) {
	const held = 3
	b := newConnBench(t, 100)
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	open := func() (conns []*net.TCPConn) {
		for range held {
			conns = append(conns, b.dial(b.ClientIP4, server.Addr()))
		}
		b.mustCount(held)
		return conns
	}
	each := func(f func(*net.TCPConn)) func() {
		return func() {
			for _, conn := range open() {
				f(conn)
			}
		}
	}
	for name, end := range map[string]func(){
		"close":               each(func(c *net.TCPConn) { _ = c.Close() }),
		"shutdown then close": each(func(c *net.TCPConn) { _ = c.CloseWrite(); _, _ = io.Copy(io.Discard, c); _ = c.Close() }),
		"reset":               each(func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() }),
		"client killed": func() {
			kill := b.process(b.Client, "dial "+server.Addr().String())
			b.mustCount(1)
			kill()
		},
		"server killed": func() {
			at := netip.AddrPortFrom(b.ServerIP4, 8090)
			kill := b.process(b.Server, "serve "+at.String())
			b.dialUntil(at)
			b.mustCount(1)
			kill()
		},
		"listener closed": func() {
			at := netip.AddrPortFrom(b.ServerIP4, 8091)
			fd := b.listen(at, 16)
			for range held {
				b.dial(b.ClientIP4, at)
			}
			b.mustCount(held)
			_ = unix.Close(fd)
		},
		"half-closed by the client, then killed by the server": func() {
			at := netip.AddrPortFrom(b.ServerIP4, 8092)
			fd := b.listen(at, 16)
			_ = b.dial(b.ClientIP4, at).CloseWrite()
			conn, _, err := unix.Accept(fd)
			if err != nil {
				t.Fatal(err)
			}
			b.mustCount(1) // half-closed still holds its place
			_ = unix.Close(conn)
		},
		"sockets shared by a fork": func() { b.endShared() },
	} {
		t.Run(name, func(t *testing.T) {
			sub := b
			sub.bench = &bench{Pair: b.Pair, t: t, pinDir: b.pinDir}
			end()
			sub.mustBeZero()
		})
	}
}

// dialUntil dials a server that is about to listen.
func (b connBench) dialUntil(at netip.AddrPort) {
	b.t.Helper()
	testenv.WaitFor(b.t, connsDeadline, "the server to listen", func() bool {
		conn, err := testenv.Dial(b.Client, b.ClientIP4, at, connsDeadline)
		if err == nil {
			b.t.Cleanup(func() { _ = conn.Close() })
		}
		return err == nil
	})
}

// endShared has two processes hold one accepted socket: the place is free when the last of them lets go.
func (b connBench) endShared() {
	b.t.Helper()
	at := netip.AddrPortFrom(b.ServerIP4, 8093)
	fd := b.listen(at, 16)
	client := b.dial(b.ClientIP4, at)
	conn, _, err := unix.Accept(fd)
	if err != nil {
		b.t.Fatal(err)
	}
	file := os.NewFile(uintptr(conn), "conn")
	cmd := exec.Command("sleep", "60")
	cmd.ExtraFiles = []*os.File{file}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	_ = file.Close()
	b.mustCount(1)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	_ = client.Close()
}

// A client that vanishes is noticed by keepalive, and its place is free then.
func TestConcurrentVanishedClient(t *testing.T) {
	b := newConnBench(t, 100)
	at := netip.AddrPortFrom(b.ServerIP4, 8080)
	fd := b.listen(at, 16, func(fd int) error {
		for option, value := range map[int]int{unix.TCP_KEEPIDLE: 1, unix.TCP_KEEPINTVL: 1, unix.TCP_KEEPCNT: 2} {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, value); err != nil {
				return err
			}
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	})
	c := b.craft("10.77.9.9") // which answers no probe
	c.establish(craftFlow{20000, at.Port()})
	if _, _, err := unix.Accept(fd); err != nil {
		t.Fatal(err)
	}
	b.mustCountAt("default", c.src, 1)
	b.mustBeZero()
}

// establish makes one connection by hand.
func (c *craft) establish(f craftFlow) {
	c.t.Helper()
	c.halfOpen([]craftFlow{f}, 1)
	c.send(f, 0x10)
	c.mustCountAt("default", c.src, 1)
}

// Behind a full accept queue the last ACK makes no connection: its place is given back.
func TestConcurrentAcceptQueueOverflow(t *testing.T) {
	b := newConnBench(t, 100)
	at := netip.AddrPortFrom(b.ServerIP4, 8080)
	fd := b.listen(at, 2)
	c := b.craft("10.77.9.9")
	var flows []craftFlow
	for n := range uint16(10) {
		flows = append(flows, craftFlow{20000 + n, at.Port()})
	}
	c.halfOpen(flows, 1)
	for range 2 {
		for _, f := range flows {
			c.send(f, 0x10)
		}
	}
	// A backlog of 2 holds 3; the place of the last ACK is given back when the gate next runs.
	testenv.WaitFor(t, connsDeadline, "places to be given back", func() bool { return b.tallies().Returned >= 7 })
	b.mustCountAt("default", c.src, 3)
	_ = unix.Close(fd)
	for _, f := range flows {
		c.send(f, 0x14)
	}
	b.mustBeZero()
}
