// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ClosedSockets are how many were closed.
type ClosedSockets struct{ TCP, UDP int }

// socketFamily is one dump of sock_diag(7): the open sockets of a family and protocol that have a peer.
type socketFamily struct {
	family, protocol uint8
	states           uint32
}

// States of TCP in which a socket has a peer: all but TIME_WAIT, CLOSE and LISTEN. Of UDP, connected is 1.
const (
	openTCP      = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11
	connectedUDP = 1 << 1
)

func socketFamilies() []socketFamily {
	return []socketFamily{
		{unix.AF_INET, unix.IPPROTO_TCP, openTCP}, {unix.AF_INET6, unix.IPPROTO_TCP, openTCP},
		{unix.AF_INET, unix.IPPROTO_UDP, connectedUDP}, {unix.AF_INET6, unix.IPPROTO_UDP, connectedUDP},
	}
}

// socketID is struct inet_diag_sockid: ports, addresses, interface and the kernel's cookie, so that what is closed
// is the very socket that was listed.
type socketID [48]byte

func (id socketID) peer(family uint8) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(id[20:24]))
	}
	return netip.AddrFrom16([16]byte(id[20:36])).Unmap()
}

// socketRequest is struct inet_diag_req_v2.
type socketRequest struct {
	socketFamily
	id socketID
}

func (socketRequest) Len() int { return 8 + len(socketID{}) }

func (r socketRequest) Serialize() []byte {
	b := binary.NativeEndian.AppendUint32([]byte{r.family, r.protocol, 0, 0}, r.states)
	return append(b, r.id[:]...)
}

// destroy closes one socket: its holder reads ECONNABORTED, and a TCP peer gets a RST.
func (r socketRequest) destroy() error {
	request := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	request.AddData(r)
	_, err := request.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}

// list finds the sockets whose peer is chosen. whole is false where the table changed too much meanwhile.
func (f socketFamily) list(chosen func(peer netip.Addr) bool) (found []socketRequest, whole bool, err error) {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddData(socketRequest{socketFamily: f})
	err = request.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
		if len(msg) < 4+len(socketID{}) {
			return false
		}
		id := socketID(msg[4:])
		if chosen(id.peer(f.family)) {
			found = append(found, socketRequest{f, id})
		}
		return true
	})
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, false, fmt.Errorf("list sockets: %w", err)
	}
	return found, err == nil, nil
}

// CanCloseSockets is ErrUnsupported where the kernel closes no sockets from outside.
func CanCloseSockets() error {
	for _, f := range socketFamilies() {
		if err := (socketRequest{socketFamily: f}).destroy(); errors.Is(err, unix.EOPNOTSUPP) {
			return fail(ErrUnsupported, "this kernel cannot close sockets of other processes (it is built without CONFIG_INET_DIAG_DESTROY); do it without --kill, then restart what holds them")
		}
	}
	return nil
}

// mostPasses bounds how often the tables are read again: until a pass finds nothing more to close.
const mostPasses = 5

// CloseSockets closes the TCP and the connected UDP sockets whose peer is chosen, in every network namespace that has
// a name or a process: those of containers are behind the interfaces of the host. Listening sockets stay. An
// IPv4 peer on an IPv6 socket is asked for as IPv4.
func CloseSockets(chosen func(peer netip.Addr) bool) (closed ClosedSockets, err error) {
	if err := CanCloseSockets(); err != nil {
		return closed, err
	}
	err = eachNetns(func(path string) error {
		return inNetns(path, func() error {
			for range mostPasses {
				now, whole, err := closeSocketsHere(chosen)
				closed.TCP, closed.UDP = closed.TCP+now.TCP, closed.UDP+now.UDP
				if err != nil || whole && now == (ClosedSockets{}) {
					return err
				}
			}
			return nil
		})
	})
	return closed, err
}

// closeSocketsHere makes one pass over the caller's namespace.
func closeSocketsHere(chosen func(peer netip.Addr) bool) (closed ClosedSockets, whole bool, err error) {
	whole = true
	for _, f := range socketFamilies() {
		found, all, err := f.list(chosen)
		if err != nil {
			return closed, false, err
		}
		whole = whole && all
		for _, s := range found {
			switch err := s.destroy(); {
			// It ended meanwhile, or it is what the kernel keeps of one that did.
			case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
			case err != nil:
				return closed, false, fmt.Errorf("close socket: %w", err)
			case f.protocol == unix.IPPROTO_TCP:
				closed.TCP++
			default:
				closed.UDP++
			}
		}
	}
	return closed, whole, nil
}
