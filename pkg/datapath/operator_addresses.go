// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Protected is whom no ban may cover, and no block or feed unless it is forced, or the host cuts itself off.
type Protected struct {
	netip.Prefix
	// What it is, as in "a gateway of this host".
	What string
	// Operator is whoever is logged in from there; nil for the host itself.
	Operator *Operator
}

// OwnAddresses lists the addresses of all interfaces of the caller's network namespace and the far ends of
// point-to-point ones, all of loopback, the gateways of the default routes of every table, and the resolvers. Each
// is a single address but that of loopback; they are sorted and each comes once.
//
// All routes are read, for the kernel cannot be asked for the default ones alone. What was found comes
// with the error.
func OwnAddresses() ([]Protected, error) {
	own, err := interfaceAddresses()
	for _, p := range []string{"127.0.0.0/8", "::1/128"} {
		own = append(own, Protected{Prefix: netip.MustParsePrefix(p), What: loopback})
	}
	gateways, routesErr := defaultGateways()
	for _, a := range gateways {
		own = append(own, Protected{Prefix: netip.PrefixFrom(a, a.BitLen()), What: "a gateway of this host"})
	}
	for _, a := range resolvers() {
		own = append(own, Protected{Prefix: netip.PrefixFrom(a, a.BitLen()), What: "a resolver of this host"})
	}
	slices.SortStableFunc(own, func(a, b Protected) int { return cmpPrefix(a.Prefix, b.Prefix) })
	same := func(a, b Protected) bool { return a.Prefix == b.Prefix }
	return slices.CompactFunc(own, same), errors.Join(err, routesErr)
}

const loopback = "loopback of this host"

// wholeDump repeats a listing that a change has cut short.
func wholeDump(list func() error) error {
	const attempts = 5
	for range attempts {
		if err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return netlink.ErrDumpInterrupted
}

func interfaceAddresses() (own []Protected, err error) {
	var addrs []netlink.Addr
	if err := wholeDump(func() (err error) {
		addrs, err = netlink.AddrList(nil, netlink.FAMILY_ALL)
		return err
	}); err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	add := func(n *net.IPNet, what string) {
		if n == nil {
			return
		}
		a, ok := plainAddr(n.IP)
		if !ok {
			return
		}
		bits := a.BitLen()
		if what == loopback {
			bits, _ = n.Mask.Size()
		}
		own = append(own, Protected{Prefix: netip.PrefixFrom(a, bits).Masked(), What: what})
	}
	for _, a := range addrs {
		// Every address of a network on lo is the host's.
		if a.LinkIndex == loopbackIndex {
			add(a.IPNet, loopback)
		} else {
			add(a.IPNet, "an address of this host")
		}
		add(a.Peer, "the far end of an interface of this host")
	}
	return own, nil
}

// defaultGateways are those of both families, of every path of a route.
func defaultGateways() (gateways []netip.Addr, err error) {
	add := func(ip net.IP) {
		if a, ok := plainAddr(ip); ok {
			gateways = append(gateways, a)
		}
	}
	visit := func(r netlink.Route) bool {
		add(r.Gw)
		if via, ok := r.Via.(*netlink.Via); ok {
			add(via.Addr)
		}
		for _, hop := range r.MultiPath {
			add(hop.Gw)
			if via, ok := hop.Via.(*netlink.Via); ok {
				add(via.Addr)
			}
		}
		return true
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		err := wholeDump(func() error {
			return netlink.RouteListFilteredIter(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC},
				netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST, visit)
		})
		if err != nil {
			return gateways, fmt.Errorf("list routes: %w", err)
		}
	}
	return gateways, nil
}

// resolvers are the name servers of resolv.conf(5), and those behind the one that systemd-resolved puts
// there. A file that is not there names none.
func resolvers() (servers []netip.Addr) {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		if data, err := os.ReadFile(path); err == nil {
			servers = append(servers, parseResolvers(data)...)
		}
	}
	return servers
}

func parseResolvers(data []byte) (servers []netip.Addr) {
	for line := range bytes.Lines(data) {
		words := bytes.Fields(line)
		if len(words) < 2 || string(words[0]) != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(string(words[1])); err == nil {
			servers = append(servers, a.Unmap().WithZone(""))
		}
	}
	return servers
}

// plainAddr is not ok for what names no host.
func plainAddr(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	a = a.Unmap()
	return a, ok && !a.IsUnspecified()
}
