// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The netdev family of generic netlink (Linux 6.3), from linux/netdev.h.
const (
	netdevFamily          = "netdev"
	netdevCmdDevGet       = 1
	netdevAttrIfindex     = 1
	netdevAttrXDPFeatures = 3
)

// xdpFeatures is what a driver announces that its XDP can do.
type xdpFeatures uint64

const (
	xdpBasic    xdpFeatures = 1 << 0 // native XDP
	xdpMultiBuf xdpFeatures = 1 << 5 // frames in more than one buffer
)

var errNotAnnounced = errors.New("kernels before 6.3 do not tell")

// announcedXDP asks what the driver of an interface of the caller's network namespace announces. That
// is a word and no promise: a driver may still refuse for its MTU, queues or offloads. The error
// is errNotAnnounced where the kernel has no such question.
func announcedXDP(ifindex int) (xdpFeatures, error) {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if err != nil {
		return 0, errNotAnnounced
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	// Not nl.Genlmsg: it sends whatever lies behind it in memory as the reserved bytes, and this family
	// wants zeros.
	req.AddRawData([]byte{netdevCmdDevGet, uint8(family.Version), 0, 0})
	req.AddRawData(nl.NewRtAttr(netdevAttrIfindex, nl.Uint32Attr(uint32(ifindex))).Serialize())
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, fmt.Errorf("ask for xdp features: %w", err)
	}
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, fmt.Errorf("read xdp features: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == netdevAttrXDPFeatures && len(a.Value) >= 8 {
				return xdpFeatures(nl.NativeEndian().Uint64(a.Value)), nil
			}
		}
	}
	return 0, errNotAnnounced
}
