// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math"
	"net/netip"
)

// ConnTallies say how the counting of connections went, since the maps were made.
type ConnTallies struct {
	// Refused are ACKs that were to end a handshake and met a full limit. Each is sent again by its client.
	Refused uint64
	// Opened are connections that were counted as they began, Late those that were counted without having asked for
	// a place: while the counting began, or by Fast Open on a busy socket.
	Opened, Late uint64
	// Returned are places that were given back, for the ACK made no connection.
	Returned uint64
	// Uncounted are connections that are not counted: the table was full, or there was no memory.
	Uncounted uint64
	// Contended are ACKs that were refused for no memory was at hand, and come again. Lost are counts that were
	// missing when they were to be given back, which is a fault.
	Contended, Lost uint64
}

// ConnTallies reads the tallies of all CPUs.
func (i *Instance) ConnTallies() (ConnTallies, error) {
	var perCPU []limiterConnTally
	if err := i.maps.ConnTallies.Lookup(uint32(0), &perCPU); err != nil {
		return ConnTallies{}, fmt.Errorf("read tallies of connections: %w", err)
	}
	var sum ConnTallies
	for _, t := range perCPU {
		sum.Refused += t.Refused
		sum.Opened += t.Opened
		sum.Late += t.Late
		sum.Returned += t.Returned
		sum.Uncounted += t.Full + t.Unheld
		sum.Contended += t.Contended
		sum.Lost += t.Lost
	}
	return sum, nil
}

// lookAtConns is what the gate says of one connection more; those that only wait are left out.
func (c *checker) lookAtConns(l *limiterLimit) (Verdict, error) {
	open, err := c.open(l)
	if err != nil {
		return Verdict{}, err
	}
	if open < l.Capacity {
		return Verdict{Verdict: "pass", Reason: reasonNames[limiterReasonREASON_UNDER_LIMIT], Left: l.Capacity - open}, nil
	}
	return Verdict{Verdict: c.refused(), Reason: reasonNames[limiterReasonREASON_OVER_CONCURRENT]}, nil
}

// connKeyOf is conn_key_of.
func connKeyOf(l *limiterLimit, source netip.Addr) limiterConnKey {
	key := limiterConnKey{Limit: l.Seed}
	if l.Per == uint8(limiterLimitPerPER_SERVICE) {
		return key
	}
	key.Addr = dataAddr(source)
	masks := l.Mask6
	if key.Addr.Family == 4 {
		masks = [4]uint32{l.Mask4}
	}
	for w := range masks {
		key.Addr.Word[w] &= masks[w]
	}
	return key
}

// ConnCount is one count of connections.
type ConnCount struct {
	// Source is what is counted together; invalid for a limit of a whole service.
	Source netip.Prefix
	// Service is set for the counts of a source at a service; those of limits have none.
	Service string
	// Established are open connections, Reserved those whose handshake is just ending.
	Established, Reserved uint64
}

// ConnCounts reads all counts, those of limits included, in no order.
func (i *Instance) ConnCounts() ([]ConnCount, error) {
	names, err := i.serviceNames()
	if err != nil {
		return nil, err
	}
	var out []ConnCount
	err = eachOf(i.maps.Conns, func(key limiterConnKey, word uint64) {
		if word == 0 || word == math.MaxUint64 {
			return // about to go
		}
		c := ConnCount{Established: word & math.MaxUint32, Reserved: word >> 32}
		if key.Limit < uint64(limiterAbiSERVICE_IDS) {
			c.Service = names[uint32(key.Limit)]
		}
		if addr := netAddr(key.Addr); addr.IsValid() {
			c.Source = i.sourceOf(addr)
		}
		out = append(out, c)
	})
	return out, err
}
