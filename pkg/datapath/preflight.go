// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// singleBufferMTU is the largest MTU whose frames surely come in one buffer on a 4 KiB page.
const singleBufferMTU = 3498

// preflight says what may surprise when the program takes effect on an interface of the caller's
// network namespace: each warning one line that says what to do. It only reads. What it cannot read
// it does not warn of.
func preflight(nl netlink.Link, mode Mode) []string {
	return readScene(nl, mode).warnings()
}

// scene is all that the warnings are judged by, so that they can be tested without the hardware.
type scene struct {
	link   netlink.Link
	mode   Mode
	driver string
	// offloads are the flags of ETHTOOL_GFLAGS.
	offloads uint32
	// announced is what the driver says of XDP, nil where it cannot be asked.
	announced *xdpFeatures
	// links are all interfaces of the namespace.
	links []netlink.Link
	// internet are the interfaces that the routes to the internet leave by, ssh the one that the
	// operator's session comes in by, 0 if there is none.
	internet []int
	ssh      int
	// limited tells interfaces that the limiter is on already.
	limited func(netlink.Link) bool
}

func (s scene) warnings() []string {
	var all []string
	name := s.link.Attrs().Name
	if !isUp(s.link) {
		all = append(all, fmt.Sprintf("%s is down: nothing is judged until `ip link set %s up`", name, name))
	}
	if s.mayGoNative() {
		all = append(all, s.nativeWarnings()...)
	}
	all = append(all, s.placeWarnings()...)
	all = append(all, s.wayWarnings()...)
	return append(all, s.tunnelWarnings()...)
}

// losesTags: native XDP does not see the VLAN tags that the driver strips, so its answers would leave without.
func losesTags(nl netlink.Link, mode Mode) bool {
	s := readScene(nl, mode)
	return mode == ModeNative && s.offloads&ethFlagRxVLAN != 0 && s.carriesVLAN()
}

// answerWarnings are for a policy with `over: reset`.
func answerWarnings(nl netlink.Link, mode Mode) []string {
	name := nl.Attrs().Name
	switch {
	case losesTags(nl, mode):
		return []string{fmt.Sprintf("%s strips VLAN tags before native XDP (rx-vlan-offload), so `over: reset` only drops there; to send answers: --mode tc, or ethtool -K %s rxvlan off", name, name)}
	case mode == ModeNative && nl.Type() == "veth":
		return []string{fmt.Sprintf("%s is a veth: what native XDP answers (`over: reset`) arrives only while its peer runs an XDP program too; to be sure: --mode tc", name)}
	}
	return nil
}

func isUp(nl netlink.Link) bool { return nl.Attrs().RawFlags&unix.IFF_UP != 0 }

// mayGoNative: native XDP will be tried and nothing is known that rules it out.
func (s scene) mayGoNative() bool {
	tried := s.mode == ModeNative || s.mode == ModeAuto
	return tried && hasLinkHeader(s.link) && (s.announced == nil || *s.announced&xdpBasic != 0)
}

// nativeWarnings are about drivers. A device without a parent is no hardware.
func (s scene) nativeWarnings() []string {
	var all []string
	a := s.link.Attrs()
	if a.ParentDev != "" {
		all = append(all, fmt.Sprintf(
			"native XDP on %s (driver %s) may reset the link for a moment; where that hurts: --mode tc", a.Name, s.driver))
	}
	if s.offloads&ethFlagRxVLAN != 0 && s.carriesVLAN() {
		all = append(all, fmt.Sprintf(
			"%s strips VLAN tags before native XDP (rx-vlan-offload): a frame is judged all the same, whatever its VLAN; to judge one VLAN only, attach its own interface",
			a.Name))
	}
	if s.offloads&ethFlagLRO != 0 {
		all = append(all, fmt.Sprintf(
			"LRO is on for %s: drivers refuse native XDP or switch LRO off; to be sure: ethtool -K %s lro off", a.Name, a.Name))
	}
	manyBuffers := s.announced != nil && *s.announced&xdpMultiBuf != 0
	if a.MTU > singleBufferMTU && !manyBuffers {
		all = append(all, fmt.Sprintf(
			"MTU %d of %s is above what native XDP takes in one buffer (about %d) and the driver may refuse: use --mode tc, or ip link set %s mtu %d",
			a.MTU, a.Name, singleBufferMTU, a.Name, singleBufferMTU))
	}
	return all
}

// carriesVLAN: somebody here takes tagged frames of the interface.
func (s scene) carriesVLAN() bool {
	above := s.above()
	for _, l := range s.links {
		if above[l.Attrs().Index] && l.Type() == "vlan" {
			return true
		}
	}
	return false
}

// placeWarnings are about interfaces that are parts of another, or made of others.
func (s scene) placeWarnings() []string {
	name := s.link.Attrs().Name
	kind := s.link.Type()
	if (kind == "bond" || kind == "team") && (s.mode == ModeNative || s.mode == ModeAuto) && !s.mayGoNative() {
		return []string{fmt.Sprintf(
			"%s has no native XDP (the %s's mode or one of its drivers lacks it): for native speed attach each of %s instead",
			name, kind, s.members(s.link))}
	}
	master := s.byIndex(s.link.Attrs().MasterIndex)
	if master == nil {
		return nil
	}
	up := master.Attrs().Name
	switch master.Type() {
	case "vrf":
		return nil
	case "bridge":
		return []string{fmt.Sprintf(
			"%s is a port of bridge %s: what goes on to other ports (VMs, containers) is judged too; to judge only what this host takes itself, attach %s",
			name, up, up)}
	case "openvswitch":
		return []string{fmt.Sprintf(
			"%s is a port of a virtual switch: what goes on to its other ports is judged too; to judge only what this host takes itself, attach the switch's internal port",
			name)}
	default:
		return []string{fmt.Sprintf(
			"%s is a slave of %s: only what arrives by %s is judged; attach %s, or each of %s",
			name, up, name, up, s.members(master))}
	}
}

// wayWarnings are about traffic that takes another interface than the operator may think.
func (s scene) wayWarnings() []string {
	var all []string
	name := s.link.Attrs().Name
	above := s.above()
	var others []string
	inside := false
	for _, index := range s.internet {
		inside = inside || above[index]
		if l := s.byIndex(index); l != nil && !s.limited(l) {
			others = append(others, l.Attrs().Name)
		}
	}
	if !inside && len(others) > 0 {
		list := strings.Join(others, " and ")
		all = append(all, fmt.Sprintf(
			"the default route uses %s, not %s: what comes in there is not limited by this; attach %s too", list, name, list))
	}
	if l := s.byIndex(s.ssh); l != nil && !above[s.ssh] && !s.limited(l) {
		all = append(all, fmt.Sprintf(
			"your SSH session comes in by %s, not %s: it is not limited by this", l.Attrs().Name, name))
	}
	return all
}

// tunnelWarnings name the tunnels of this host: what they carry is judged on their own interfaces.
func (s scene) tunnelWarnings() []string {
	var names []string
	for _, l := range s.links {
		if l.Attrs().Index != s.link.Attrs().Index && isUp(l) && isTunnel(l) && !s.limited(l) {
			names = append(names, l.Attrs().Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("what comes in through %s is judged only if you attach there too: synward attach %s",
		strings.Join(names, ", "), names[0])}
}

// isTunnel: interfaces whose packets arrive inside other packets. A tap that is a bridge's port is a
// virtual machine's network card and no tunnel.
func isTunnel(nl netlink.Link) bool {
	switch nl.Type() {
	case "wireguard", "ipip", "ip6tnl", "sit", "gre", "ip6gre", "gretap", "ip6gretap", "erspan", "ip6erspan",
		"vxlan", "geneve", "vti", "vti6", "xfrm", "ppp", "gtp", "bareudp", "fou", "ovpn", "amt":
		return true
	case "tuntap":
		return nl.Attrs().EncapType != "ether" || nl.Attrs().MasterIndex == 0
	}
	return false
}

// above is the set of interfaces whose frames all, or in part, pass the scene's interface and are
// seen there as what they are: itself, VLANs and their like on it, bonds and bridges that it is in.
func (s scene) above() map[int]bool {
	set := map[int]bool{s.link.Attrs().Index: true}
	for grown := true; grown; {
		grown = false
		for _, l := range s.links {
			a := l.Attrs()
			if set[a.Index] && a.MasterIndex != 0 && !set[a.MasterIndex] {
				set[a.MasterIndex], grown = true, true
			}
			if !set[a.Index] && isStacked(l) && set[a.ParentIndex] {
				set[a.Index], grown = true, true
			}
		}
	}
	return set
}

// isStacked: interfaces that take frames of their parent in this namespace as they are.
func isStacked(nl netlink.Link) bool {
	switch nl.Type() {
	case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap":
		return nl.Attrs().NetNsID < 0
	}
	return false
}

func (s scene) byIndex(index int) netlink.Link {
	for _, l := range s.links {
		if index != 0 && l.Attrs().Index == index {
			return l
		}
	}
	return nil
}

func (s scene) members(master netlink.Link) string {
	var names []string
	for _, l := range s.links {
		if l.Attrs().MasterIndex == master.Attrs().Index {
			names = append(names, l.Attrs().Name)
		}
	}
	if len(names) == 0 {
		return "its slaves"
	}
	return strings.Join(names, ", ")
}
