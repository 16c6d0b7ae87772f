// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// tcpSocket is a TCP socket that listens, which has no peer, or is established.
type tcpSocket struct {
	local, peer netip.AddrPort
	listening   bool
}

// sshSocket is a TCP socket with the SSH servers that hold it.
type sshSocket struct {
	tcpSocket
	holders []*sshProcess
}

func (s sshSocket) port() sshPort { return sshPort{s.holders[0].netns, s.local.Port()} }

// sshSockets finds out what the sockets of these processes are, in no order.
//
// Each is borrowed from its holder for a moment and asked (pidfd_getfd, Linux 5.6). That needs no look
// into any table of sockets, so it costs the same with a million of them, in the midst of a flood, and
// in whatever network namespace the socket was made. sock_diag and /proc/PID/net/tcp both walk the
// table of all, because neither finds a socket by its inode; the former has to enter the namespace, too.
// The latter is read, once for each namespace, where borrowing is not allowed (seccomp, Yama's
// ptrace_scope 3): that takes 2 us for each connection of that namespace.
func sshSockets(processes []*sshProcess) ([]sshSocket, error) {
	known := map[uint64]tcpSocket{}
	closed := map[string]map[uint64]bool{} // by namespace: what may not be borrowed
	for _, p := range processes {
		for _, inode := range borrowSockets(p, known) {
			if closed[p.netns] == nil {
				closed[p.netns] = map[uint64]bool{}
			}
			closed[p.netns][inode] = true
		}
	}
	var errs []error
	for _, p := range processes {
		if len(closed[p.netns]) == 0 {
			continue
		}
		err := readSocketTable(p.pid, closed[p.netns], known)
		if err != nil && isGone(err) {
			continue // the next process of that namespace
		}
		if err != nil {
			errs = append(errs, err)
		}
		delete(closed, p.netns)
	}
	at := map[uint64]int{}
	var sockets []sshSocket
	for _, p := range processes {
		for inode := range p.sockets {
			s, isTCP := known[inode]
			if !isTCP {
				continue
			}
			if _, seen := at[inode]; !seen {
				at[inode] = len(sockets)
				sockets = append(sockets, sshSocket{tcpSocket: s})
			}
			sockets[at[inode]].holders = append(sockets[at[inode]].holders, p)
		}
	}
	return sockets, errors.Join(errs...)
}

// borrowSockets asks the sockets of a process that are not known yet, and returns those that could not
// be asked.
func borrowSockets(p *sshProcess, known map[uint64]tcpSocket) (refused []uint64) {
	var process int
	var openErr error
	process, openErr = unix.PidfdOpen(p.pid, 0)
	if openErr == nil {
		defer unix.Close(process)
	}
	for inode, number := range p.sockets {
		if _, done := known[inode]; done {
			continue
		}
		err := openErr
		if err == nil {
			var fd int
			if fd, err = unix.PidfdGetfd(process, number, 0); err == nil {
				if s, isTCP := askSocket(fd, inode); isTCP {
					known[inode] = s
				}
				_ = unix.Close(fd)
				continue
			}
		}
		if !isGone(err) {
			refused = append(refused, inode)
		}
	}
	return refused
}

// askSocket tells what a descriptor is, if it is still the socket of that inode.
func askSocket(fd int, inode uint64) (s tcpSocket, isTCP bool) {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Ino != inode {
		return s, false
	}
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_STREAM {
		return s, false
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return s, false
	}
	s.local = socketAddrPort(local)
	if accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && accepts != 0 {
		s.listening = true
		return s, s.local.IsValid()
	}
	// No state: not plain TCP, but Multipath TCP on an old kernel. It has a peer, so it counts.
	if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && info.State != tcpEstablished {
		return s, false
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return s, false
	}
	s.peer = socketAddrPort(peer)
	return s, s.local.IsValid() && s.peer.IsValid()
}

// States of TCP, from net/tcp_states.h.
const (
	tcpEstablished = 1
	tcpListen      = 10
)

// socketAddrPort is the zero AddrPort for what is not of the internet.
func socketAddrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return plainAddrPort(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return plainAddrPort(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// readSocketTable looks the wanted inodes up in the tables of both families of the network namespace of
// a process.
func readSocketTable(pid int, wanted map[uint64]bool, known map[uint64]tcpSocket) error {
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, name))
		if name == "tcp6" && errors.Is(err, os.ErrNotExist) {
			return nil // a kernel without IPv6
		}
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if inode, s, ok := parseSocketLine(lines.Bytes()); ok && wanted[inode] {
				known[inode] = s
			}
		}
		_ = f.Close()
		if err := lines.Err(); err != nil {
			return fmt.Errorf("read %s: %w", f.Name(), err)
		}
	}
	return nil
}

// parseSocketLine reads a line of proc_net(5): what is second and third are the addresses, fourth the
// state and tenth the inode.
func parseSocketLine(line []byte) (inode uint64, s tcpSocket, ok bool) {
	fields := bytes.Fields(line)
	if len(fields) < 10 {
		return 0, s, false
	}
	state, err := strconv.ParseUint(string(fields[3]), 16, 8)
	if err != nil || state != tcpEstablished && state != tcpListen {
		return 0, s, false
	}
	if inode, err = strconv.ParseUint(string(fields[9]), 10, 64); err != nil {
		return 0, s, false
	}
	if s.local, ok = parseSocketEnd(fields[1]); !ok {
		return 0, s, false
	}
	if s.listening = state == tcpListen; s.listening {
		return inode, s, true
	}
	s.peer, ok = parseSocketEnd(fields[2])
	return inode, s, ok
}

// parseSocketEnd reads an address, 32-bit words in the host's order, a colon and a port, all in hex.
func parseSocketEnd(field []byte) (netip.AddrPort, bool) {
	digits, port, ok := bytes.Cut(field, []byte(":"))
	number, err := strconv.ParseUint(string(port), 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, false
	}
	raw := make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(raw, digits); err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for w := 0; w < len(raw); w += 4 {
		binary.NativeEndian.PutUint32(raw[w:], binary.BigEndian.Uint32(raw[w:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return plainAddrPort(addr, uint16(number)), ok
}
