// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/synward/synward/pkg/datapath"
)

// kill closes the open sockets of blocked prefixes and says how many. Whoever is allowed keeps his, for he is not
// blocked; so do operators, unless it is forced.
func (l list) kill(i instance, prefixes []netip.Prefix, force bool) error {
	spared, err := l.spared(force)
	if err != nil {
		return err
	}
	var failed error
	keeps := map[netip.Addr]bool{}
	left := 0
	closed, err := l.kernel.CloseSockets(func(peer netip.Addr) bool {
		if !covers(prefixes, peer) {
			return false
		}
		if spared[peer] {
			left++
			return false
		}
		kept, known := keeps[peer]
		if !known {
			entry, err := i.Covering(datapath.Allow, peer)
			failed = errors.Join(failed, err)
			kept = entry != nil || err != nil
			keeps[peer] = kept
		}
		return !kept
	})
	l.say("%s: closed %s", subject(prefixes), closedWords(closed))
	if left > 0 {
		l.say("note: sockets of operators stay open; --force closes them")
	}
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("the block is in force; not all of its sockets could be closed: %w", err)
	}
	return nil
}

// spared are the addresses of everybody who is logged in, in whatever network namespace.
func (l list) spared(force bool) (map[netip.Addr]bool, error) {
	if force {
		return nil, nil
	}
	ops, err := l.kernel.Operators()
	spared := map[netip.Addr]bool{}
	for _, op := range ops {
		spared[op.Peer.Addr()] = true
	}
	if err != nil {
		return nil, fmt.Errorf("the block is in force, and no socket was closed: not all operators could be found (--force closes all the same): %w", err)
	}
	return spared, nil
}

func covers(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr.WithZone("")) {
			return true
		}
	}
	return false
}

func closedWords(c datapath.ClosedSockets) string {
	if c == (datapath.ClosedSockets{}) {
		return "no socket, none was open"
	}
	return fmt.Sprintf("%d TCP and %d UDP sockets", c.TCP, c.UDP)
}
