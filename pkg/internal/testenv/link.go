// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addrDeadline bounds the wait for new IPv6 addresses; the kernel's worker takes the same lock as all changes of
// interfaces, so a busy machine makes it slow.
const addrDeadline = 10 * time.Second

// Veth joins a and b by a veth pair; both ends are down. Each has as many queues as there are CPUs, so packets that
// are sent on different CPUs are received on different CPUs. Either end, and either namespace, takes it away.
func Veth(t T, a *Namespace, aName string, b *Namespace, bName string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	queues := runtime.NumCPU()
	attrs.NumTxQueues, attrs.NumRxQueues = queues, queues
	link := &netlink.Veth{
		LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(b.handle), PeerTxQLen: -1,
		PeerNumTxQueues: uint32(queues), PeerNumRxQueues: uint32(queues),
	}
	if err := a.nl.LinkAdd(link); err != nil {
		t.Fatalf("join %s in %s and %s in %s: %v", aName, a.name, bName, b.name, err)
	}
}

func (ns *Namespace) link(ifname string) (netlink.Link, error) {
	link, err := ns.nl.LinkByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("find %s in %s: %w", ifname, ns.name, err)
	}
	return link, nil
}

// Index is the interface index of ifname in ns.
func (ns *Namespace) Index(ifname string) (int, error) {
	link, err := ns.link(ifname)
	if err != nil {
		return 0, err
	}
	return link.Attrs().Index, nil
}

// MAC is the hardware address of ifname in ns.
func (ns *Namespace) MAC(ifname string) (net.HardwareAddr, error) {
	link, err := ns.link(ifname)
	if err != nil {
		return nil, err
	}
	return link.Attrs().HardwareAddr, nil
}

// LinkUp sets an interface up. It does not wait for the carrier, see LinkReady.
func (ns *Namespace) LinkUp(ifname string) error {
	link, err := ns.link(ifname)
	if err != nil {
		return err
	}
	if err := ns.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up in %s: %w", ifname, ns.name, err)
	}
	return nil
}

// disableARP must come before LinkUp.
func (ns *Namespace) disableARP(ifname string) error {
	link, err := ns.link(ifname)
	if err != nil {
		return err
	}
	if err := ns.nl.LinkSetARPOff(link); err != nil {
		return fmt.Errorf("disable arp of %s: %w", ifname, err)
	}
	return nil
}

// LinkReady reports whether an interface is up and sends. A carrier alone is not enough: until the kernel has
// acted on it (operational state "up", RFC 2863) the interface has no queue and drops what it is given.
func (ns *Namespace) LinkReady(ifname string) bool {
	link, err := ns.link(ifname)
	if err != nil {
		return false
	}
	flags := link.Attrs().RawFlags
	return flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING != 0 && flags&unix.IFF_LOWER_UP != 0
}

// SetGRO switches generic receive offload of an interface. On a veth it also decides whether the peer may send
// it frames by XDP_TX or a redirect when no XDP program runs here.
func (ns *Namespace) SetGRO(ifname string, on bool) error {
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_SGRO}
	if on {
		value.data = 1
	}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	if copy(request.name[:unix.IFNAMSIZ-1], ifname) != len(ifname) {
		return fmt.Errorf("set gro: interface name %q is too long", ifname)
	}
	request.data = unsafe.Pointer(&value)
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("set gro: open socket: %w", err)
		}
		defer unix.Close(fd)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			return fmt.Errorf("set gro of %s: %w", ifname, errno)
		}
		return nil
	})
}

// AddAddr gives an interface an address in the form "10.0.0.1/24" or "fd00::1/64". If the interface is up the
// address is usable when AddAddr returns, also an IPv6 one. An address that is there already is success.
func (ns *Namespace) AddAddr(ifname, cidr string) error {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return fmt.Errorf("add address: %w", err)
	}
	return ns.AddAddrs(ifname, prefix)
}

// AddAddrs is AddAddr for many; a thousand take well under a second.
func (ns *Namespace) AddAddrs(ifname string, prefixes ...netip.Prefix) error {
	link, err := ns.link(ifname)
	if err != nil {
		return err
	}
	pending := map[netip.Addr]bool{}
	for _, prefix := range prefixes {
		addr := &netlink.Addr{IPNet: ipNet(prefix)}
		if prefix.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
			pending[prefix.Addr()] = true
		}
		if err := ns.nl.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s to %s: %w", prefix, ifname, err)
		}
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 || len(pending) == 0 {
		return nil
	}
	if !poll(addrDeadline, func() bool { return ns.settled(link, pending) }) {
		return fmt.Errorf("add addresses to %s: %d IPv6 addresses are not usable after %v", ifname, len(pending), addrDeadline)
	}
	return nil
}

// settled takes out of pending what ns receives packets for. The kernel makes an IPv6 address a local one from a
// worker thread, some time after the address has been added, and until then drops what arrives for it.
func (ns *Namespace) settled(link netlink.Link, pending map[netip.Addr]bool) bool {
	filter := &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}
	routes, err := ns.nl.RouteListFiltered(netlink.FAMILY_V6, filter,
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil {
		return false
	}
	for _, route := range routes {
		if route.Dst == nil {
			continue
		}
		if addr, ok := netip.AddrFromSlice(route.Dst.IP); ok {
			delete(pending, addr)
		}
	}
	return len(pending) == 0
}

// AddRoute sends dst to the gateway via, through ifname. An invalid via means that dst is on the link itself.
func (ns *Namespace) AddRoute(ifname string, dst netip.Prefix, via netip.Addr) error {
	link, err := ns.link(ifname)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst.Masked())}
	if via.IsValid() {
		route.Gw = via.AsSlice()
	} else {
		route.Scope = netlink.SCOPE_LINK
	}
	if err := ns.nl.RouteReplace(route); err != nil {
		return fmt.Errorf("route %s via %s %s: %w", dst, via, ifname, err)
	}
	return nil
}

// AddLocal makes every address of a prefix an own address of ns without listing them: each may be bound,
// listened on and connected from. The other end needs a route to the prefix.
func (ns *Namespace) AddLocal(prefix netip.Prefix) error {
	link, err := ns.link("lo")
	if err != nil {
		return err
	}
	route := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(prefix.Masked()),
		Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
	}
	if err := ns.nl.RouteReplace(route); err != nil {
		return fmt.Errorf("make %s local: %w", prefix, err)
	}
	if prefix.Addr().Is4() {
		return nil
	}
	// IPv6 binds only to addresses of an interface, unless it is told otherwise.
	return ns.SetSysctl("net.ipv6.ip_nonlocal_bind", "1")
}

// AddNeigh makes a permanent neighbour entry, so that no ARP or neighbour discovery is sent for addr.
func (ns *Namespace) AddNeigh(ifname string, addr netip.Addr, mac net.HardwareAddr) error {
	link, err := ns.link(ifname)
	if err != nil {
		return err
	}
	neigh := &netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: addr.AsSlice(), HardwareAddr: mac,
	}
	if err := ns.nl.NeighSet(neigh); err != nil {
		return fmt.Errorf("set neighbour %s of %s: %w", addr, ifname, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
