// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// serviceChallenge lets one SYN through, which opens the listener for cookies, and challenges the rest.
const serviceChallenge = `
version: 1
services:
  - {name: web, listen: [8080/tcp], limits: [{per: service, new: 1/d, burst: 1, over: challenge}]}
`

// What tcpi_options of linux/tcp.h says of a connection.
const (
	withTimestamps = 1
	withSACK       = 2
	withWscale     = 4
)

// exchange is a server that sends and receives so many bytes on each connection, and keeps what the kernel says of it.
type exchange struct {
	t        *testing.T
	bytes    int64
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	infos []unix.TCPInfo
	whole int
}

// newExchange listens in the server's namespace; set, if any, is applied to the listening socket.
func (b *bench) newExchange(addr netip.AddrPort, bytes int64, set func(fd int) error) *exchange {
	b.t.Helper()
	e := &exchange{t: b.t, bytes: bytes}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if set == nil {
			return nil
		}
		return errors.Join(c.Control(func(fd uintptr) { err = set(int(fd)) }), err)
	}}
	err := b.Server.Do(func() (err error) {
		e.listener, err = config.Listen(context.Background(), "tcp", addr.String())
		return err
	})
	if err != nil {
		b.t.Fatalf("listen on %s: %v", addr, err)
	}
	e.running.Go(e.accept)
	b.t.Cleanup(e.close)
	return e
}

func (e *exchange) close() {
	_ = e.listener.Close()
	e.running.Wait()
}

func (e *exchange) accept() {
	for {
		conn, err := e.listener.Accept()
		if err != nil {
			return
		}
		e.running.Go(func() { e.serve(conn.(*net.TCPConn)) })
	}
}

func (e *exchange) serve(conn *net.TCPConn) {
	defer conn.Close()
	err := swap(conn, e.bytes)
	info, infoErr := tcpInfo(conn)
	e.mu.Lock()
	defer e.mu.Unlock()
	if infoErr == nil {
		e.infos = append(e.infos, info)
	}
	if err == nil {
		e.whole++
	}
}

// info is what the kernel said of the n-th connection that ended.
func (e *exchange) info(n int) unix.TCPInfo {
	e.t.Helper()
	testenv.WaitFor(e.t, patience, "the server to be done", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.infos) > n
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.infos[n]
}

func tcpInfo(conn *net.TCPConn) (info unix.TCPInfo, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return info, err
	}
	err = errors.Join(err, raw.Control(func(fd uintptr) {
		var got *unix.TCPInfo
		if got, err = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO); err == nil {
			info = *got
		}
	}), err)
	return info, err
}

// swap sends and receives so many bytes at once, and ends the connection.
func swap(conn net.Conn, bytes int64) error {
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(conn, zeros{}, bytes)
		sent <- err
	}()
	n, err := io.CopyN(io.Discard, conn, bytes)
	if err != nil {
		err = fmt.Errorf("read %d of %d bytes: %w", n, bytes, err)
		_ = conn.Close()
	}
	return errors.Join(err, <-sent)
}

// dialAndSwap is a real client's whole connection.
func (b *bench) dialAndSwap(from netip.Addr, to netip.AddrPort, bytes int64, wait time.Duration) (info unix.TCPInfo, err error) {
	conn, err := testenv.Dial(b.Client, from, to, wait)
	if err != nil {
		return info, err
	}
	defer testenv.Abort(conn)
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return info, err
	}
	if err := swap(conn, bytes); err != nil {
		return info, err
	}
	info, err = tcpInfo(conn.(*net.TCPConn))
	if _, more := conn.Read(make([]byte, 1)); !errors.Is(more, io.EOF) { // the server has all, and has ended it
		return info, errors.Join(err, fmt.Errorf("wait for the end: %v", more))
	}
	return info, err
}

// challengeBench is a bench whose server takes cookies, with the policy in force.
func challengeBench(t *testing.T, mode datapath.Mode, timestamps, text string, opts testenv.PairOptions) *bench {
	t.Helper()
	b := newBench(t, opts)
	for key, value := range map[string]string{"net.ipv4.tcp_syncookies": "2", "net.ipv4.tcp_timestamps": timestamps} {
		if err := b.Server.SetSysctl(key, value); err != nil {
			t.Fatal(err)
		}
	}
	b.attach(mode, nil)
	b.apply(text)
	if mode == datapath.ModeNative {
		b.watchClient()
	}
	return b
}

// A real client connects through the answer and transfers data both ways, with the options that the setting allows.
func TestChallengeConnects(t *testing.T) {
	const amount = 1 << 20
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range familiesIn(mode) {
			for timestamps, options := range map[string]uint8{"0": 0, "1": 0, "2": withTimestamps | withSACK | withWscale} {
				t.Run(name+" timestamps="+timestamps, func(t *testing.T) {
					b := challengeBench(t, mode, timestamps, serviceChallenge, testenv.PairOptions{})
					to := netip.AddrPortFrom(f.server, 8080)
					e := b.newExchange(to, amount, nil)
					before := b.checksumErrors()
					for n := range 4 {
						info, err := b.dialAndSwap(f.client, to, amount, streamPatience)
						if err != nil {
							t.Fatalf("connection %d: %v", n, err)
						}
						if got := info.Options & (withTimestamps | withSACK | withWscale); n > 0 && got != options {
							t.Errorf("connection %d has options %#x, want %#x", n, got, options)
						}
						if server := e.info(n); n > 0 && server.Options&(withTimestamps|withSACK|withWscale) != options {
							t.Errorf("connection %d has options %#x at the server, want %#x", n, server.Options, options)
						}
					}
					if got := b.tally(); got["over_new challenge"] < 3 || got["under_limit pass"] != 1 {
						t.Errorf("counted %v", got)
					}
					if after := b.checksumErrors(); after != before {
						t.Errorf("the client counted %d checksum errors", after-before)
					}
				})
			}
		}
	})
}
