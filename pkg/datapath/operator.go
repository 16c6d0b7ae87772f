// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Operator is one SSH connection whose user would be locked out if its peer were.
type Operator struct {
	// Peer and Local are the two ends as sshd's socket has them: behind a jump host the peer is that
	// host. No address is IPv4-mapped and none has a zone.
	Peer, Local netip.AddrPort
	// Own: this process runs in that session.
	Own bool
	// Netns names the network namespace of sshd if it is not the caller's: a name of /run/netns, or
	// "process N" where it has none. Empty for the caller's own.
	Netns string
	// Who is what sshd says of the session ("root@pts/0", "alice@notty"; "alice" for one without a
	// shell), or the name of the program where it says nothing. It is printable, for whatever runs
	// under the name of sshd can write it.
	Who string
}

// session says whose it is and where it came in.
func (op Operator) session() string {
	whose := "SSH session of " + op.Who
	if op.Own {
		whose = "your own SSH session"
	}
	where := fmt.Sprintf("port %d", op.Local.Port())
	if op.Netns != "" {
		where += " in namespace " + op.Netns
	}
	return whose + ", to " + where
}

// Operators lists the peer of every established TCP connection that a logged-in session of sshd(8) or
// dropbear(8) holds, whatever the port and the network namespace; those that this process itself runs
// in come first, the others by address. In a tmux that outlived its session no ancestor is an sshd:
// there the one that whoever is attached came by is listed as any other.
//
// A connection that has not logged in is left out, or whoever opens one could not be blocked. What
// cannot be told counts as logged in, all of dropbear among it: it is better to ask once too often.
// So whoever may run programs on this host can put a peer of his own on the list, and at worst spare it
// a block.
//
// Sessions that end meanwhile are no error. One that may not be looked at is, which takes root with
// CAP_SYS_PTRACE; the list then holds the others.
func Operators() ([]Operator, error) {
	names := newNetnsNames()
	processes, err := sshProcesses(ownProcesses())
	sockets, socketsErr := sshSockets(processes)
	ops := operatorsOf(sockets, names.name)
	if own, ok := parseSSHConnection(operatorSSH()); ok {
		markOwn(ops, own)
	}
	slices.SortFunc(ops, compareOperators)
	if err = errors.Join(err, socketsErr); err != nil {
		return ops, fmt.Errorf("find operators: %w", err)
	}
	return ops, nil
}

func compareOperators(a, b Operator) int {
	if a.Own != b.Own {
		if a.Own {
			return -1
		}
		return 1
	}
	return cmp.Or(a.Peer.Compare(b.Peer), a.Local.Compare(b.Local), cmp.Compare(a.Netns, b.Netns))
}

// operatorsOf decides which sockets are those of operators.
func operatorsOf(sockets []sshSocket, name func(netns string, pid int) string) []Operator {
	listens := listenedPorts(sockets)
	// The processes of which the connection that their user came by is known.
	arrived := map[int]bool{}
	for _, s := range sockets {
		if listens[s.port()] {
			for _, p := range s.holders {
				arrived[p.pid] = true
			}
		}
	}
	var ops []Operator
	for _, s := range sockets {
		p := s.session()
		if p == nil || arrived[p.pid] && !listens[s.port()] {
			// The latter is what a session forwards: its far end has not logged in here.
			continue
		}
		ops = append(ops, Operator{
			Peer: s.peer, Local: s.local, Own: p.own, Netns: name(p.netns, p.pid), Who: p.who,
		})
	}
	return ops
}

// sshPort is a TCP port of a network namespace.
type sshPort struct {
	netns string
	port  uint16
}

// listenedPorts are the ports where an sshd waits for connections. Not those that a session listens on
// for its user (ssh -R).
func listenedPorts(sockets []sshSocket) map[sshPort]bool {
	ports := map[sshPort]bool{}
	for _, s := range sockets {
		isListener := func(p *sshProcess) bool { return p.stage == stageListener }
		if s.listening && slices.ContainsFunc(s.holders, isListener) {
			ports[s.port()] = true
		}
	}
	return ports
}

// session is the holder that makes a socket an operator's, nil if there is none. One connection has up
// to two: a monitor that never says that the login is over, and the session proper.
func (s sshSocket) session() *sshProcess {
	var found *sshProcess
	for _, p := range s.holders {
		switch {
		case s.listening || p.stage == stageListener:
			// An ancestor of every session, and for an instant the holder of what it just accepted.
		case p.stage == stageLogin && !p.own:
		case found == nil, p.better(found):
			found = p
		}
	}
	return found
}

// better: of two holders, the one that says more of the session.
func (p *sshProcess) better(q *sshProcess) bool {
	if p.own != q.own {
		return p.own
	}
	return p.stage == stageSession && (q.stage != stageSession || strings.Contains(p.who, "@") && !strings.Contains(q.who, "@"))
}

// markOwn believes SSH_CONNECTION only where an sshd holds that very connection: in a tmux it may be
// that of a session long gone.
func markOwn(ops []Operator, own sshConnection) {
	for i := range ops {
		if ops[i].Peer == own.client && ops[i].Local == own.server {
			ops[i].Own = true
		}
	}
}

// sshConnection is what SSH_CONNECTION of sshd(8) says.
type sshConnection struct{ client, server netip.AddrPort }

func parseSSHConnection(value string) (c sshConnection, ok bool) {
	fields := strings.Fields(value)
	if len(fields) != 4 {
		return c, false
	}
	end := func(addr, port string) netip.AddrPort {
		a, err := netip.ParseAddr(addr)
		p, portErr := strconv.ParseUint(port, 10, 16)
		if err != nil || portErr != nil {
			return netip.AddrPort{}
		}
		return plainAddrPort(a, uint16(p))
	}
	c = sshConnection{client: end(fields[0], fields[1]), server: end(fields[2], fields[3])}
	return c, c.client.IsValid() && c.server.IsValid()
}

// plainAddrPort has neither an IPv4-mapped address nor a zone.
func plainAddrPort(a netip.Addr, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(a.Unmap().WithZone(""), port)
}
