// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// The prefix lengths of a Pair's own networks.
const (
	bits4 = 16
	bits6 = 64
)

// linkDeadline bounds the wait for a new veth pair; it takes about a millisecond.
const linkDeadline = 5 * time.Second

// PairOptions says how a Pair is built. The zero value is a plain pair.
type PairOptions struct {
	// GRO switches generic receive offload on at both ends. Without it and without an XDP program at the far
	// end, frames sent by XDP_TX or a redirect are dropped.
	GRO bool
	// Resolve leaves it to ARP and neighbour discovery to find the other end. The default is that each end sends
	// everything to the other's hardware address and is otherwise silent (no ARP, no neighbour discovery, no
	// multicast reports), so that exact counts see nothing but what the test sent.
	Resolve bool
	// ClientAddrs are more addresses of the client, any and of either family, which the server reaches.
	ClientAddrs []netip.Addr
	// ClientPrefixes are whole prefixes that the client may connect from.
	ClientPrefixes []netip.Prefix
}

// Pair is a server and a client namespace joined by a veth. It is up and usable when it is returned.
type Pair struct {
	Server, Client     *Namespace
	ServerIf, ClientIf string // "srv0", "cli0"
	// 10.77.0.1/16 and fd77::1/64, 10.77.0.2/16 and fd77::2/64.
	ServerIP4, ServerIP6, ClientIP4, ClientIP6 netip.Addr
}

// NewPair makes a Pair and removes it at cleanup.
func NewPair(t T, opts PairOptions) *Pair {
	t.Helper()
	p := &Pair{
		Server: NewNamespace(t, "server"), Client: NewNamespace(t, "client"),
		ServerIf: "srv0", ClientIf: "cli0",
		ServerIP4: netip.MustParseAddr("10.77.0.1"), ServerIP6: netip.MustParseAddr("fd77::1"),
		ClientIP4: netip.MustParseAddr("10.77.0.2"), ClientIP6: netip.MustParseAddr("fd77::2"),
	}
	Veth(t, p.Server, p.ServerIf, p.Client, p.ClientIf)
	if err := p.configure(opts); err != nil {
		t.Fatalf("configure pair: %v", err)
	}
	WaitFor(t, linkDeadline, "both ends of the veth to be up", func() bool {
		return p.Server.LinkReady(p.ServerIf) && p.Client.LinkReady(p.ClientIf)
	})
	return p
}

// ServerIndex is the interface index of the server's end in the server's namespace.
func (p *Pair) ServerIndex() (int, error) { return p.Server.Index(p.ServerIf) }

// ClientIndex is the interface index of the client's end in the client's namespace.
func (p *Pair) ClientIndex() (int, error) { return p.Client.Index(p.ClientIf) }

// AddClientAddrs gives the client more addresses. The server gets a host route to each, through the client's
// first address of that family, so its neighbour table stays at two entries.
func (p *Pair) AddClientAddrs(addrs ...netip.Addr) error {
	hosts := make([]netip.Prefix, 0, len(addrs))
	for _, addr := range addrs {
		hosts = append(hosts, netip.PrefixFrom(addr, addr.BitLen()))
	}
	if err := p.Client.AddAddrs(p.ClientIf, hosts...); err != nil {
		return err
	}
	return p.routeToClient(hosts)
}

// AddClientPrefix lets the client connect from every address of a prefix, which costs one route at each end. The
// prefix must not hold the server's own addresses.
func (p *Pair) AddClientPrefix(prefix netip.Prefix) error {
	if prefix.Contains(p.ServerIP4) || prefix.Contains(p.ServerIP6) {
		return fmt.Errorf("add client prefix: %s holds an address of the server", prefix)
	}
	if err := p.Client.AddLocal(prefix); err != nil {
		return err
	}
	return p.routeToClient([]netip.Prefix{prefix})
}

func (p *Pair) routeToClient(prefixes []netip.Prefix) error {
	for _, prefix := range prefixes {
		via := p.ClientIP4
		if prefix.Addr().Is6() {
			via = p.ClientIP6
		}
		if err := p.Server.AddRoute(p.ServerIf, prefix, via); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pair) configure(opts PairOptions) error {
	server := pairEnd{p.Server, p.ServerIf, p.ServerIP4, p.ServerIP6}
	client := pairEnd{p.Client, p.ClientIf, p.ClientIP4, p.ClientIP6}
	for _, end := range []pairEnd{server, client} {
		if err := end.configure(opts); err != nil {
			return err
		}
	}
	if !opts.Resolve {
		if err := errors.Join(server.reach(client), client.reach(server)); err != nil {
			return err
		}
	}
	for _, prefix := range opts.ClientPrefixes {
		if err := p.AddClientPrefix(prefix); err != nil {
			return err
		}
	}
	return p.AddClientAddrs(opts.ClientAddrs...)
}

// pairEnd is one end of a Pair.
type pairEnd struct {
	ns       *Namespace
	ifname   string
	ip4, ip6 netip.Addr
}

func (e pairEnd) configure(opts PairOptions) error {
	if err := e.ns.SetGRO(e.ifname, opts.GRO); err != nil {
		return err
	}
	if !opts.Resolve {
		// Without ARP, Linux also joins no multicast group of an address, and so reports none.
		if err := e.ns.disableARP(e.ifname); err != nil {
			return err
		}
	}
	if err := e.ns.LinkUp(e.ifname); err != nil {
		return err
	}
	return e.ns.AddAddrs(e.ifname, netip.PrefixFrom(e.ip4, bits4), netip.PrefixFrom(e.ip6, bits6))
}

// reach sends all of the shared networks to the other end, whose hardware address is made known, so that every
// address which a test adds later on either side is reached too. The two halves of a network go before the route
// of the network itself.
func (e pairEnd) reach(other pairEnd) error {
	mac, err := other.ns.MAC(other.ifname)
	if err != nil {
		return err
	}
	for _, own := range []netip.Prefix{netip.PrefixFrom(other.ip4, bits4), netip.PrefixFrom(other.ip6, bits6)} {
		via := own.Addr()
		if err := e.ns.AddNeigh(e.ifname, via, mac); err != nil {
			return err
		}
		if err := e.ns.AddRoute(e.ifname, netip.PrefixFrom(via, via.BitLen()), netip.Addr{}); err != nil {
			return err
		}
		for _, half := range halve(own) {
			if err := e.ns.AddRoute(e.ifname, half, via); err != nil {
				return err
			}
		}
	}
	return nil
}

// halve splits a prefix in two.
func halve(p netip.Prefix) [2]netip.Prefix {
	bits := p.Bits()
	low := p.Masked().Addr().AsSlice()
	high := slices.Clone(low)
	high[bits/8] |= 0x80 >> (bits % 8)
	from := func(b []byte) netip.Prefix {
		addr, _ := netip.AddrFromSlice(b)
		return netip.PrefixFrom(addr, bits+1)
	}
	return [2]netip.Prefix{from(low), from(high)}
}
