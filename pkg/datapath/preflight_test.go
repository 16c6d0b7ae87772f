// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interfaces as netlink shows them, for warnings about hardware that is not here.
func fake(kind string, index int, name string, change ...func(*netlink.LinkAttrs)) netlink.Link {
	a := netlink.NewLinkAttrs()
	a.Index, a.Name, a.EncapType, a.MTU, a.RawFlags, a.NetNsID = index, name, "ether", 1500, unix.IFF_UP, -1
	for _, c := range change {
		c(&a)
	}
	return &netlink.GenericLink{LinkAttrs: a, LinkType: kind}
}

func hardware(a *netlink.LinkAttrs) { a.ParentDev = "0000:01:00.0" }
func down(a *netlink.LinkAttrs)     { a.RawFlags = 0 }

func mtu(n int) func(*netlink.LinkAttrs) { return func(a *netlink.LinkAttrs) { a.MTU = n } }
func in(master int) func(*netlink.LinkAttrs) {
	return func(a *netlink.LinkAttrs) { a.MasterIndex = master }
}
func on(parent int) func(*netlink.LinkAttrs) {
	return func(a *netlink.LinkAttrs) { a.ParentIndex = parent }
}

func noLinkHeader(a *netlink.LinkAttrs) { a.EncapType = "none" }

func announce(f xdpFeatures) *xdpFeatures { return &f }

// warningCase is one scene: its interface is the first of links, the mode is auto unless it is set.
type warningCase struct {
	name string
	scene
	want []string // how each warning begins
	has  string   // what the first one holds as well
}

func (c warningCase) run(t *testing.T) {
	c.link = c.links[0]
	if c.mode == "" {
		c.mode = ModeAuto
	}
	if c.limited == nil {
		c.limited = func(netlink.Link) bool { return false }
	}
	got := c.warnings()
	if len(got) != len(c.want) {
		t.Fatalf("got %d warnings, want %d:\n%s", len(got), len(c.want), strings.Join(got, "\n"))
	}
	for i, w := range got {
		if !strings.HasPrefix(w, c.want[i]) || strings.Contains(w, "\n") {
			t.Errorf("got  %s\nwant %s...", w, c.want[i])
		}
	}
	if len(got) > 0 && !strings.Contains(got[0], c.has) {
		t.Errorf("%q does not hold %q", got[0], c.has)
	}
}

func TestWarningsOfNativeXDP(t *testing.T) {
	nic := fake("device", 2, "eth0", hardware)
	const reset = "native XDP on eth0 (driver ixgbe) may reset the link"
	jumbo := []netlink.Link{fake("device", 2, "eth0", mtu(9000))}
	for _, c := range []warningCase{
		{name: "hardware", scene: scene{links: []netlink.Link{nic}, driver: "ixgbe"}, want: []string{reset}, has: "--mode tc"},
		{name: "hardware, native asked for", scene: scene{mode: ModeNative, links: []netlink.Link{nic}, driver: "ixgbe"}, want: []string{reset}},
		{name: "hardware, tc", scene: scene{mode: ModeTC, links: []netlink.Link{nic}, offloads: ethFlagLRO}},
		{name: "hardware, generic", scene: scene{mode: ModeGeneric, links: []netlink.Link{nic}, offloads: ethFlagLRO}},
		{name: "driver without native", scene: scene{links: []netlink.Link{nic}, announced: announce(0), offloads: ethFlagLRO}},
		{name: "lro", scene: scene{links: []netlink.Link{fake("device", 2, "eth0")}, offloads: ethFlagLRO},
			want: []string{"LRO is on for eth0"}, has: "ethtool -K eth0 lro off"},
		{name: "vlan offload without vlans", scene: scene{links: []netlink.Link{fake("device", 2, "eth0")}, offloads: ethFlagRxVLAN}},
		{name: "vlan offload", scene: scene{offloads: ethFlagRxVLAN, links: []netlink.Link{
			fake("device", 2, "eth0"), fake("vlan", 3, "eth0.7", on(2)),
		}}, want: []string{"eth0 strips VLAN tags"}, has: "judged all the same"},
		{name: "vlan of another", scene: scene{offloads: ethFlagRxVLAN, links: []netlink.Link{
			fake("device", 2, "eth0"), fake("device", 4, "eth1"), fake("vlan", 3, "eth1.7", on(4)),
		}}},
		{name: "jumbo, not known", scene: scene{links: jumbo}, want: []string{"MTU 9000 of eth0"}, has: "ip link set eth0 mtu"},
		{name: "jumbo, one buffer", scene: scene{links: jumbo, announced: announce(xdpBasic)}, want: []string{"MTU 9000 of eth0"}},
		{name: "jumbo, many buffers", scene: scene{links: jumbo, announced: announce(xdpBasic | xdpMultiBuf)}},
		{name: "jumbo, tc", scene: scene{mode: ModeTC, links: jumbo}},
		{name: "largest in one buffer", scene: scene{links: []netlink.Link{fake("device", 2, "eth0", mtu(singleBufferMTU))}}},
		{name: "no link header", scene: scene{links: []netlink.Link{fake("wireguard", 2, "wg0", noLinkHeader, mtu(9000))}}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestWarningsOfPlace(t *testing.T) {
	slaves := func(kind, master string) []netlink.Link {
		return []netlink.Link{
			fake("device", 2, "eth0", in(9)), fake("device", 3, "eth1", in(9)), fake(kind, 9, master),
		}
	}
	bond := []netlink.Link{
		fake("bond", 9, "bond0"), fake("device", 2, "eth0", in(9)), fake("device", 3, "eth1", in(9)),
	}
	for _, c := range []warningCase{
		{name: "down", scene: scene{links: []netlink.Link{fake("veth", 2, "v0", down)}},
			want: []string{"v0 is down"}, has: "ip link set v0 up"},
		{name: "slave of a bond", scene: scene{links: slaves("bond", "bond0")},
			want: []string{"eth0 is a slave of bond0"}, has: "attach bond0, or each of eth0, eth1"},
		{name: "slave of a team", scene: scene{links: slaves("team", "team0"), mode: ModeTC}, want: []string{"eth0 is a slave of team0"}},
		{name: "port of a bridge", scene: scene{links: slaves("bridge", "br0")},
			want: []string{"eth0 is a port of bridge br0"}, has: "attach br0"},
		{name: "port of a switch", scene: scene{links: slaves("openvswitch", "ovs-system")}, want: []string{"eth0 is a port of a virtual switch"}},
		{name: "in a vrf", scene: scene{links: slaves("vrf", "red")}},
		{name: "master that is not here", scene: scene{links: []netlink.Link{fake("device", 2, "eth0", in(77))}}},
		{name: "bond that can", scene: scene{links: bond, announced: announce(xdpBasic)}},
		{name: "bond that cannot", scene: scene{links: bond, announced: announce(0)},
			want: []string{"bond0 has no native XDP"}, has: "attach each of eth0, eth1"},
		{name: "bond by tc", scene: scene{mode: ModeTC, links: bond, announced: announce(0)}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestWarningsOfWays(t *testing.T) {
	links := []netlink.Link{
		fake("device", 2, "eth0"), fake("device", 3, "eth1"), fake("vlan", 4, "eth0.7", on(2)), fake("device", 5, "eth2"),
	}
	bonded := []netlink.Link{
		fake("device", 2, "eth0", in(9)), fake("bond", 9, "bond0"), fake("vlan", 4, "bond0.7", on(9)),
	}
	otherNetns := func(a *netlink.LinkAttrs) { a.ParentIndex, a.NetNsID = 2, 0 }
	everywhere := func(netlink.Link) bool { return true }
	const route, ssh = "the default route uses eth1, not eth0", "your SSH session comes in by eth1, not eth0"
	for _, c := range []warningCase{
		{name: "no route", scene: scene{links: links}},
		{name: "route and session here", scene: scene{links: links, internet: []int{2}, ssh: 2}},
		{name: "route elsewhere", scene: scene{links: links, internet: []int{3}}, want: []string{route}, has: "attach eth1 too"},
		{name: "one family here", scene: scene{links: links, internet: []int{3, 2}}},
		{name: "both families elsewhere", scene: scene{links: links, internet: []int{3, 5}}, want: []string{"the default route uses eth1 and eth2, not eth0"}},
		{name: "route by a vlan of it", scene: scene{links: links, internet: []int{4}, ssh: 4}},
		{name: "route by a vlan of its bond", scene: scene{links: bonded, internet: []int{4}, ssh: 9}, want: []string{"eth0 is a slave of bond0"}},
		{name: "vlan of another namespace's eth0", scene: scene{internet: []int{4}, links: []netlink.Link{
			fake("device", 2, "eth0"), fake("vlan", 4, "lan", otherNetns),
		}}, want: []string{"the default route uses lan, not eth0"}},
		{name: "session elsewhere", scene: scene{links: links, internet: []int{2}, ssh: 3}, want: []string{ssh}, has: "not limited by this"},
		{name: "both elsewhere", scene: scene{links: links, internet: []int{3}, ssh: 3}, want: []string{route, ssh}},
		{name: "elsewhere, limited too", scene: scene{links: links, internet: []int{3}, ssh: 3, limited: everywhere}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestWarningsOfTunnels(t *testing.T) {
	nic := fake("device", 2, "eth0")
	tunnels := []netlink.Link{nic, fake("wireguard", 3, "wg0", noLinkHeader), fake("tuntap", 4, "tun0", noLinkHeader)}
	notWg0 := func(l netlink.Link) bool { return l.Attrs().Name == "wg0" }
	for _, c := range []warningCase{
		{name: "two", scene: scene{links: tunnels}, want: []string{"what comes in through wg0, tun0 is judged only"}, has: "synward attach wg0"},
		{name: "one of them limited", scene: scene{links: tunnels, limited: notWg0}, want: []string{"what comes in through tun0 is"}},
		{name: "itself", scene: scene{links: tunnels[1:2]}},
		{name: "down", scene: scene{links: []netlink.Link{nic, fake("sit", 3, "sit0", down)}}},
		{name: "tap of a virtual machine", scene: scene{links: []netlink.Link{nic, fake("tuntap", 3, "vnet0", in(9)), fake("bridge", 9, "br0")}}},
		{name: "tap of a tunnel", scene: scene{links: []netlink.Link{nic, fake("tuntap", 3, "tap0")}}, want: []string{"what comes in through tap0"}},
		{name: "no tunnels", scene: scene{links: []netlink.Link{nic, fake("veth", 3, "v0"), fake("bridge", 9, "br0"), fake("vlan", 4, "v", on(2))}}},
	} {
		t.Run(c.name, c.run)
	}
}
