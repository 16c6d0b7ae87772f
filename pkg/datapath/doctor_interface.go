// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// interfaceFindings looks at one interface and touches nothing.
func interfaceFindings(ifname string) []Finding {
	nl, err := netlink.LinkByName(ifname)
	if err != nil {
		return []Finding{missingInterface(ifname, err)}
	}
	attrs := nl.Attrs()
	driver := ethtoolDriver(ifname)
	if driver == "" {
		driver = "none named (" + nl.Type() + ")"
	}
	layer := "Ethernet: native, tc and generic"
	if !hasLinkHeader(nl) {
		layer = fmt.Sprintf("%s, no Ethernet header: only mode tc", attrs.EncapType)
	}
	state := "up"
	if attrs.RawFlags&unix.IFF_UP == 0 {
		state = "down"
	}
	return []Finding{
		{Name: "interface", OK: true, Detail: fmt.Sprintf("%s, index %d, %s", ifname, attrs.Index, state)},
		{Name: "driver", OK: true, Detail: driver},
		{Name: "link layer", OK: true, Detail: layer},
		{Name: "native xdp", OK: true, Detail: nativeDetail(nl)},
		{Name: "rx queues", OK: true, Detail: fmt.Sprint(rxQueues(nl))},
		{Name: "mtu", OK: true, Detail: fmt.Sprint(attrs.MTU)},
		xdpFinding(nl),
		tcFinding(nl),
	}
}

// missingInterface names what there is instead, as far as it fits on a line.
func missingInterface(ifname string, err error) Finding {
	found := Finding{
		Name: "interface", Detail: fmt.Sprintf("%s: %v", ifname, err), Fix: "`ip link` lists the interfaces",
	}
	var notFound netlink.LinkNotFoundError
	if !errors.As(err, &notFound) {
		return found
	}
	found.Detail = fmt.Sprintf("there is no %q in this network namespace", ifname)
	links, err := netlink.LinkList()
	if err != nil || len(links) == 0 || len(links) > 12 {
		return found
	}
	found.Fix = "here are: " + strings.Join(linkNames(links), ", ")
	return found
}

func linkNames(links []netlink.Link) []string {
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names
}

func nativeDetail(nl netlink.Link) string {
	if !hasLinkHeader(nl) {
		return "not on an interface without an Ethernet header; mode tc is used"
	}
	announced, err := announcedXDP(nl.Attrs().Index)
	switch {
	case err != nil:
		return fmt.Sprintf("unknown until attach: %v", err)
	case announced&xdpBasic == 0:
		return "not announced by the driver; mode tc is used"
	case announced&xdpMultiBuf == 0:
		return fmt.Sprintf("announced by the driver, for an MTU up to about %d", singleBufferMTU)
	default:
		return "announced by the driver, with jumbo frames"
	}
}

// xdpFinding names the XDP program on the interface: one that is not ours is in the way of XDP.
func xdpFinding(nl netlink.Link) Finding {
	found := Finding{Name: "xdp program", OK: true, Detail: "none"}
	xdp := nl.Attrs().Xdp
	if xdp == nil || !xdp.Attached {
		return found
	}
	id := ebpf.ProgramID(xdp.ProgId)
	found.Detail = describeProgram(id)
	if name := programName(id); name != "" && name != limiterProgSynwardXdp {
		found.OK = false
		found.Fix = fmt.Sprintf("modes native and generic need its place: synward attach %s --mode tc, or remove it with the tool that put it there", nl.Attrs().Name)
	}
	return found
}

// tcFinding names the programs at TC ingress. They live side by side, so none is in the way.
func tcFinding(nl netlink.Link) Finding {
	found := Finding{Name: "tc programs", OK: true, Detail: "none"}
	var all []string
	for _, id := range tcxPrograms(nl) {
		all = append(all, "tcx: "+describeProgram(id))
	}
	for _, f := range clsactPrograms(nl) {
		all = append(all, "clsact: "+describeProgram(ebpf.ProgramID(f.Id)))
	}
	if len(all) > 0 {
		found.Detail = strings.Join(all, "; ")
	}
	return found
}

// tcxPrograms lists what tcx runs at ingress, in that order; nothing where there is no tcx.
func tcxPrograms(nl netlink.Link) []ebpf.ProgramID {
	res, err := link.QueryPrograms(link.QueryOptions{Target: nl.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return nil
	}
	var ids []ebpf.ProgramID
	for _, p := range res.Programs {
		ids = append(ids, p.ID)
	}
	return ids
}

// clsactPrograms lists the BPF filters at ingress.
func clsactPrograms(nl netlink.Link) []*netlink.BpfFilter {
	filters, err := netlink.FilterList(nl, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return nil
	}
	var all []*netlink.BpfFilter
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok {
			all = append(all, b)
		}
	}
	return all
}

// programName is the name that a loaded program was given, "" if it cannot be asked.
func programName(id ebpf.ProgramID) string {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return ""
	}
	return info.Name
}

// runsLimiter tells whether a program of ours is on an interface, of whatever instance.
func runsLimiter(nl netlink.Link) bool {
	if xdp := nl.Attrs().Xdp; xdp != nil && xdp.Attached && programName(ebpf.ProgramID(xdp.ProgId)) == limiterProgSynwardXdp {
		return true
	}
	for _, id := range tcxPrograms(nl) {
		if programName(id) == limiterProgSynwardTc {
			return true
		}
	}
	f, err := findFilter(nl, hookClsact)
	return err == nil && f != nil
}
