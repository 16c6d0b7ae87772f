// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/link"

	"github.com/synward/synward/pkg/policy"
)

// LimitLevel is what one limit counts of a source now.
type LimitLevel struct {
	// Service is empty for a limit across all services.
	Service string
	// Name is how the limit is called, as "web limit 1".
	Name  string
	Limit policy.Limit
	// Counted is what has not drained yet, of new connections, packets or bytes, or what is open; Most is how much
	// there is room for. What was sent may be more than that.
	Counted, Most uint64
	// Clear is when it has drained, if nothing is added; zero where nothing is counted, or what is open is.
	Clear time.Time
	// Borrowed: the table of levels is full, and what is counted was another source's before.
	Borrowed bool
}

// OpenConn is a connection that limits count.
type OpenConn struct {
	// Service is empty where it is a limit across all services that counts it.
	Service string
	// Remote and Local are as the socket has them: behind DNAT, Local is not what the client dialled.
	Remote, Local netip.AddrPort
	// Since is when it was counted: when it was made, or when counting began.
	Since time.Time
}

// Levels are what the limits in force count of a source, in the order of the policy. Limits per destination are left
// out: they count a source and each local address apart.
func (i *Instance) Levels(source netip.Addr) ([]LimitLevel, error) {
	source = source.Unmap().WithZone("")
	p, err := i.PolicyInForce()
	if err != nil {
		return nil, err
	}
	now := monotonicNow()
	slot := slotOfGeneration(i.live().inForce(now))
	c := &checker{Instance: i, slot: slot, head: i.control.Policies[slot], source: source, nowNs: now}
	if c.in, err = c.sets(); err != nil {
		return nil, err
	}
	var out []LimitLevel
	for at := range uint32(len(limitNames(p))) {
		h, counts, err := c.levelOf(p, at)
		if err != nil {
			return nil, err
		}
		if counts {
			out = append(out, h)
		}
	}
	return out, nil
}

// levelOf is what the limit at a place of the policy counts.
func (c *checker) levelOf(p *policy.Policy, at uint32) (h LimitLevel, counts bool, err error) {
	l, err := c.limitAt(c.slot, at)
	if err != nil {
		return h, false, err
	}
	limit, name := limitOf(p, at)
	byDestination := limit.Per == policy.PerDestination || limit.Per == policy.PerSourceDestination
	if byDestination || l.From != 0 && l.From&c.in == 0 || l.Except&c.in != 0 {
		return h, false, nil
	}
	h = LimitLevel{Service: serviceOfPlace(p, at), Name: name, Limit: *limit, Most: limit.Burst}
	if l.concurrent() {
		h.Most = l.Capacity
		h.Counted, err = c.open(&l)
		return h, true, err
	}
	owed, own := c.owed(&l)
	if l.metered() && meterSlot(c.tables, &l, hashKey(&c.control.Hash, &l, c.source, c.local)) == nil {
		owed, own = 0, true
	}
	h.Counted, h.Borrowed = l.counted(owed), !own
	if owed > 0 {
		h.Clear = time.Now().Add(time.Duration(owed << l.UnitShift))
	}
	return h, true, nil
}

// counted is how many connections, packets or bytes make a level.
func (l *limiterLimit) counted(owed uint64) uint64 {
	if l.Cost == 0 || owed == 0 {
		return 0
	}
	return mulDiv(owed, 1<<l.CostShift, l.Cost)
}

func serviceOfPlace(p *policy.Policy, at uint32) string {
	n := int(at)
	for _, s := range p.Services {
		if n < len(s.Limits) {
			return s.Name
		}
		n -= len(s.Limits)
	}
	return ""
}

// OpenConns lists the connections that are counted, of the sources that are chosen, the oldest first. Nothing is
// counted unless a limit of concurrent connections is in force.
func (i *Instance) OpenConns(chosen func(netip.Addr) bool) ([]OpenConn, error) {
	if i.featuresNeeded()&concurrentFeature == 0 || i.connTrouble() != "" {
		return nil, nil
	}
	names, err := i.serviceNames()
	if err != nil {
		return nil, err
	}
	raw, err := i.readShown()
	if err != nil {
		return nil, err
	}
	var out []OpenConn
	for line := range slices.Chunk(raw, int(unsafe.Sizeof(limiterConnLine{}))) {
		var l limiterConnLine
		if err := binary.Read(bytes.NewReader(line), binary.NativeEndian, &l); err != nil {
			return nil, fmt.Errorf("read connections: %w", err)
		}
		remote := netAddr(l.Remote)
		if !remote.IsValid() || !chosen(remote) {
			continue
		}
		out = append(out, OpenConn{
			Service: names[l.Service], Since: wallTime(l.SinceNs),
			Remote: netip.AddrPortFrom(remote, l.RemotePort), Local: netip.AddrPortFrom(netAddr(l.Local), l.LocalPort),
		})
	}
	slices.SortFunc(out, func(a, b OpenConn) int { return cmp.Or(a.Since.Compare(b.Since), a.Remote.Compare(b.Remote)) })
	return out, nil
}

// readShown walks the sockets that are counted.
func (i *Instance) readShown() ([]byte, error) {
	control, err := i.connControl()
	if err != nil {
		return nil, err
	}
	prog, err := i.maps.loadConns(connsProgSynwardShown, connSettings{epoch: control.Epoch})
	if err != nil {
		return nil, err
	}
	defer prog.Close()
	it, err := link.AttachIter(link.IterOptions{Program: prog, Map: i.maps.ConnSockets})
	if err != nil {
		return nil, fmt.Errorf("walk sockets: %w", err)
	}
	defer it.Close()
	sockets, err := it.Open()
	if err != nil {
		return nil, fmt.Errorf("walk sockets: %w", err)
	}
	defer sockets.Close()
	raw, err := io.ReadAll(sockets)
	if err != nil {
		return nil, fmt.Errorf("walk sockets: %w", err)
	}
	return raw, nil
}

// open is how many connections a limit counts, those whose handshake is just ending included.
func (c *checker) open(l *limiterLimit) (uint64, error) {
	var word uint64
	err := c.maps.Conns.Lookup(connKeyOf(l, c.source), &word)
	if err != nil && !isMissing(err) {
		return 0, fmt.Errorf("read count of connections: %w", err)
	}
	if word == math.MaxUint64 {
		return 0, nil // about to go
	}
	return word&math.MaxUint32 + word>>32, nil
}
