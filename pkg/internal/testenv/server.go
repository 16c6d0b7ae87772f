// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"io"
	"maps"
	"net"
	"net/netip"
	"sync"
)

// greeting is the one byte that a Server sends on every connection that it accepts: a client that has read it
// knows that the connection reached the server, not just that something answered the SYN.
const greeting = 'S'

// ServerOptions says what a Server does with a connection. The zero value counts it, greets and closes.
type ServerOptions struct {
	// Hold keeps a connection open until the client closes it or the server ends.
	Hold bool
	// Silent sends no greeting. Connect and Hammer, which wait for it, then fail.
	Silent bool
}

// Server is a TCP listener that counts the connections that it accepts by source address. Its methods may be
// called from any goroutine.
type Server struct {
	opts     ServerOptions
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	counts map[netip.Addr]int
	total  int
	open   map[net.Conn]struct{}
}

// NewServer listens in ns until cleanup. Port 0 lets the kernel choose; the address :: takes both families.
func NewServer(t T, ns *Namespace, addr netip.AddrPort, opts ServerOptions) *Server {
	t.Helper()
	s := &Server{opts: opts, counts: map[netip.Addr]int{}, open: map[net.Conn]struct{}{}}
	err := ns.Do(func() (err error) {
		s.listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr.String())
		return err
	})
	if err != nil {
		t.Fatalf("listen on %s in %s: %v", addr, ns.Name(), err)
	}
	t.Cleanup(s.Close)
	s.running.Go(s.accept)
	return s
}

// Addr is where the server listens.
func (s *Server) Addr() netip.AddrPort { return addrPort(s.listener.Addr()) }

// Count is how many connections from addr were accepted.
func (s *Server) Count(addr netip.Addr) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[addr]
}

// Counts is a copy of all counts by source address.
func (s *Server) Counts() map[netip.Addr]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// Total is how many connections were accepted.
func (s *Server) Total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// Open is how many connections are open now.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// Reset sets all counts to zero; connections stay open.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.counts)
	s.total = 0
}

// Close stops listening, closes what is open and waits until nothing of the server runs any more. It may be
// called twice.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	_ = s.listener.Close()
	for conn := range s.open {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // closed; the kernel's passing errors are retried by net
		}
		if s.admit(conn) {
			s.running.Go(func() { s.serve(conn) })
		}
	}
}

// admit counts a connection. It reports false when the server has been closed meanwhile.
func (s *Server) admit(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return false
	}
	s.counts[addrPort(conn.RemoteAddr()).Addr()]++
	s.total++
	s.open[conn] = struct{}{}
	return true
}

func (s *Server) serve(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		delete(s.open, conn)
		s.mu.Unlock()
	}()
	if !s.opts.Silent {
		if _, err := conn.Write([]byte{greeting}); err != nil {
			return
		}
	}
	if s.opts.Hold {
		_, _ = io.Copy(io.Discard, conn)
	}
}

// addrPort converts an address of a TCP socket, with IPv4 shown as IPv4 also on a socket for both families.
func addrPort(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
