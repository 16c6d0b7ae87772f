// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// readScene gathers what the warnings are judged by. What cannot be read stays empty.
func readScene(nl netlink.Link, mode Mode) scene {
	a := nl.Attrs()
	s := scene{link: nl, mode: mode, driver: ethtoolDriver(a.Name), limited: runsLimiter}
	s.offloads, _ = ethtoolFlags(a.Name)
	if announced, err := announcedXDP(a.Index); err == nil {
		s.announced = &announced
	}
	s.links, _ = netlink.LinkList()
	s.internet = internetInterfaces()
	s.ssh = sshInterface(operatorSSH())
	return s
}

// internetInterfaces lists where packets to the internet leave. The kernel is asked for the route
// to one address of each family, so that a router's full table is not read; nothing is sent. They
// are a.root-servers.net, which no table treats as special.
func internetInterfaces() []int {
	var found []int
	for _, far := range []string{"198.41.0.4", "2001:503:ba3e::2:30"} {
		index := routeInterface(net.ParseIP(far))
		if index != 0 && !slices.Contains(found, index) {
			found = append(found, index)
		}
	}
	return found
}

func routeInterface(to net.IP) int {
	routes, err := netlink.RouteGet(to)
	if err != nil || len(routes) == 0 {
		return 0
	}
	return routes[0].LinkIndex
}

// sshInterface is the interface by which an SSH session comes in, 0 if that is not known: the one
// that has the session's local address or, if that is one that belongs to none in particular (lo),
// the one that the answers leave by. connection is SSH_CONNECTION of sshd(8): client address and
// port, server address and port.
func sshInterface(connection string) int {
	fields := strings.Fields(connection)
	if len(fields) != 4 {
		return 0
	}
	client, err1 := netip.ParseAddr(fields[0])
	server, err2 := netip.ParseAddr(fields[2])
	if err1 != nil || err2 != nil || client.IsLoopback() {
		return 0
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return 0
	}
	server = server.Unmap().WithZone("")
	for _, a := range addrs {
		local, ok := netip.AddrFromSlice(a.IP)
		if !ok || local.Unmap() != server {
			continue
		}
		if a.LinkIndex == loopbackIndex {
			return routeInterface(client.Unmap().WithZone("").AsSlice())
		}
		return a.LinkIndex
	}
	return 0
}

// operatorSSH is SSH_CONNECTION of this process or of the nearest ancestor that has it: sudo takes
// it away from what it runs. Empty where there is none.
func operatorSSH() string {
	if value := os.Getenv(sshVariable); value != "" {
		return value
	}
	return ancestorSSH(os.Getppid())
}

const sshVariable = "SSH_CONNECTION"

// ancestorSSH looks at a process and at those above it.
func ancestorSSH(pid int) string {
	const deepest = 64
	for range deepest {
		if pid <= 1 {
			return ""
		}
		if value := environ(pid, sshVariable); value != "" {
			return value
		}
		pid = parentPID(pid)
	}
	return ""
}

// environ reads a variable of a process as it was when that began.
func environ(pid int, name string) string {
	all, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return ""
	}
	for entry := range bytes.SplitSeq(all, []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, []byte(name+"=")); ok {
			return string(value)
		}
	}
	return ""
}

// parentPID reads the fourth field of proc_pid_stat(5), 0 if there is none. The second may hold
// spaces and parentheses.
func parentPID(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0
	}
	return parent
}
