// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// receiveBuffer holds the datagrams of a test, and more: a receiver that has to wait for its CPU loses none.
const receiveBuffer = 32 << 20

// Receiver takes datagrams on some ports and counts them by source address. Its methods may be called from any
// goroutine.
type Receiver struct {
	sockets []*net.UDPConn
	running sync.WaitGroup

	mu     sync.Mutex
	counts map[netip.Addr]int
}

// NewReceiver listens in ns, on all its addresses of both families, until cleanup.
func NewReceiver(t T, ns *Namespace, ports ...uint16) *Receiver {
	t.Helper()
	r := &Receiver{counts: map[netip.Addr]int{}}
	t.Cleanup(r.Close)
	for _, port := range ports {
		var socket *net.UDPConn
		err := ns.Do(func() (err error) {
			socket, err = listenDatagrams(port)
			return err
		})
		if err != nil {
			t.Fatalf("receive on port %d in %s: %v", port, ns.Name(), err)
		}
		r.sockets = append(r.sockets, socket)
		r.running.Go(func() { r.receive(socket) })
	}
	return r
}

// listenDatagrams takes both families.
func listenDatagrams(port uint16) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		control := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
		})
		return errors.Join(control, err)
	}}
	conn, err := config.ListenPacket(context.Background(), "udp", fmt.Sprintf("[::]:%d", port))
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// receive ends when the socket is closed.
func (r *Receiver) receive(socket *net.UDPConn) {
	buffer := make([]byte, 2048)
	for {
		_, from, err := socket.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.counts[from.Addr().Unmap()]++
		r.mu.Unlock()
	}
}

// Count is how many datagrams from addr have come.
func (r *Receiver) Count(addr netip.Addr) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[addr]
}

// Counts is a copy of all counts by source address.
func (r *Receiver) Counts() map[netip.Addr]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}

// Close stops to receive and waits until nothing of the receiver runs any more. It may be called twice.
func (r *Receiver) Close() {
	for _, socket := range r.sockets {
		_ = socket.Close()
	}
	r.running.Wait()
}

// datagramsAtOnce is how many are sent before the sender pauses for a millisecond: the ring of a veth with XDP holds 256,
// and what a busy machine has not taken out by then is lost before any program sees it.
const datagramsAtOnce = 64

// SendDatagrams sends payloads out of ns from src (port 0 is one of the kernel's choice), the n-th to the
// n-th of the ports of dst, in turn.
func SendDatagrams(ns *Namespace, src netip.AddrPort, dst netip.Addr, ports []uint16, payloads ...[]byte) error {
	return ns.Do(func() error {
		family := unix.AF_INET
		if dst.Is6() {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open socket: %w", err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, sockaddr(src)); err != nil {
			return fmt.Errorf("bind to %s: %w", src, err)
		}
		for n, payload := range payloads {
			if n%datagramsAtOnce == datagramsAtOnce-1 {
				time.Sleep(time.Millisecond)
			}
			to := netip.AddrPortFrom(dst, ports[n%len(ports)])
			if err := unix.Sendto(fd, payload, 0, sockaddr(to)); err != nil {
				return fmt.Errorf("send to %s: %w", to, err)
			}
		}
		return nil
	})
}
