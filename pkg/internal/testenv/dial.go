// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How an attempt to connect can end, other than well. Use errors.Is.
var (
	// ErrNoAnswer: nothing came back within the timeout. The SYN, or the answer, was dropped.
	ErrNoAnswer = errors.New("no answer")
	// ErrRefused: the SYN was answered with RST.
	ErrRefused = errors.New("refused by reset")
	// ErrNotServed: the handshake was completed but the server's greeting did not come within the timeout, or a
	// RST came in its place: somebody else answered the SYN, or the last ACK of the handshake was refused.
	ErrNotServed = errors.New("handshake completed but not served")
)

// greetingPatience is how long a server's process may take to greet: a handshake is answered by the kernel at once,
// a greeting when a loaded machine lets the process run.
const greetingPatience = 2 * time.Second

// Dial makes a TCP connection out of ns from the address src (any free port) to dst by a real connect(2). It
// does not wait for the server's greeting. Linux repeats an unanswered SYN after one second, so that a timeout
// below it sends exactly one SYN. Errors are ErrNoAnswer, ErrRefused or those of the system calls.
func Dial(ns *Namespace, src netip.Addr, dst netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	return DialFrom(ns, netip.AddrPortFrom(src, 0), dst, timeout)
}

// DialFrom is Dial from a chosen port; 0 takes any. A chosen port may be taken again at once after a connection
// that ended by Abort.
func DialFrom(ns *Namespace, src, dst netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	var fd int
	err := ns.Do(func() (err error) {
		fd, err = startConnect(src, dst)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect %s to %s: %w", src, dst, classify(err))
	}
	conn, err := finishConnect(fd, timeout)
	if err != nil {
		return nil, fmt.Errorf("connect %s to %s: %w", src, dst, err)
	}
	return conn, nil
}

// Connect dials a Server, waits for its greeting and ends the connection by Abort. Nil means that the server
// accepted the connection and counted it. The timeout holds for the handshake and for the greeting, each; but
// for the greeting, which a process sends, it is at least greetingPatience. Errors are those of Dial and
// ErrNotServed.
func Connect(ns *Namespace, src netip.Addr, dst netip.AddrPort, timeout time.Duration) error {
	conn, err := Dial(ns, src, dst, timeout)
	if err != nil {
		return err
	}
	return awaitGreeting(conn, timeout)
}

// Abort closes a connection with RST: neither end keeps it in TIME_WAIT, so ports do not run out.
func Abort(conn net.Conn) error {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	return conn.Close()
}

func awaitGreeting(conn net.Conn, timeout time.Duration) error {
	defer Abort(conn)
	if err := conn.SetReadDeadline(time.Now().Add(max(timeout, greetingPatience))); err != nil {
		return err
	}
	var b [1]byte
	n, err := conn.Read(b[:])
	if n == 1 && b[0] == greeting {
		return nil
	}
	return fmt.Errorf("%w (read: %v)", ErrNotServed, err)
}

// startConnect sends the SYN from the calling thread's namespace and returns the socket, which does not block.
func startConnect(src, dst netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET
	if dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	if err := connectFrom(fd, src, dst); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func connectFrom(fd int, src, dst netip.AddrPort) error {
	if src.Addr().IsValid() {
		// With a chosen port: take it although an earlier connection from it is not quite gone. With any:
		// choose it at connect, for then only the four-tuple has to be free.
		level, option := unix.SOL_SOCKET, unix.SO_REUSEADDR
		if src.Port() == 0 {
			level, option = unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT
		}
		if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
			return fmt.Errorf("set socket option: %w", err)
		}
		if err := unix.Bind(fd, sockaddr(src)); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
	}
	if err := unix.Connect(fd, sockaddr(dst)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	return nil
}

// finishConnect waits for the end of the handshake. It owns fd.
func finishConnect(fd int, timeout time.Duration) (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "tcp") // does not block, so the runtime's poller takes it
	defer file.Close()
	if err := file.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var result error
	err = raw.Write(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			result = err
		case errno != 0:
			result = unix.Errno(errno)
		default:
			_, err = unix.Getpeername(int(fd))
			return err == nil
		}
		return true
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = lateResult(raw, err)
	}
	if err = errors.Join(err, result); err != nil {
		return nil, classify(err)
	}
	return net.FileConn(file)
}

// lateResult is what became of a handshake when its time is over: it may have been this process that was late, on a machine
// that stood still, and not the answer.
func lateResult(raw syscall.RawConn, timeout error) error {
	result := timeout
	err := raw.Control(func(fd uintptr) {
		if errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
			result = unix.Errno(errno)
		} else if _, err := unix.Getpeername(int(fd)); err == nil {
			result = nil
		}
	})
	return errors.Join(err, result)
}

func classify(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return ErrNoAnswer
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
		return ErrRefused
	}
	return err
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}
