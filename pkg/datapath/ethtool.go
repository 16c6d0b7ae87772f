// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bits of ETHTOOL_GFLAGS that matter to us, from linux/ethtool.h; x/sys has no names for them.
const (
	ethFlagRxVLAN = 1 << 8
	ethFlagLRO    = 1 << 15
)

// ethtoolValue is struct ethtool_value.
type ethtoolValue struct{ cmd, data uint32 }

// ethtoolChannels is struct ethtool_channels. A combined channel receives and sends.
type ethtoolChannels struct {
	cmd                                        uint32
	maxRx, maxTx, maxOther, maxCombined        uint32
	rxCount, txCount, otherCount, bothWaysRxTx uint32
}

// ethtoolDriver names the driver of an interface of the caller's network namespace, "" where it has
// none to name (lo, some tunnels).
func ethtoolDriver(ifname string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, ifname)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}

// ethtoolFlags reads the offloads that have a legacy flag (ETHTOOL_GFLAGS). Errors: EOPNOTSUPP where
// the interface does not speak ethtool, ENODEV where it is gone.
func ethtoolFlags(ifname string) (uint32, error) {
	value := ethtoolValue{cmd: unix.ETHTOOL_GFLAGS}
	if err := ethtool(ifname, unsafe.Pointer(&value)); err != nil {
		return 0, fmt.Errorf("read offloads of %s: %w", ifname, err)
	}
	return value.data, nil
}

// rxQueues is how many queues an interface receives by now. Drivers without ETHTOOL_GCHANNELS are
// taken by what they registered.
func rxQueues(nl netlink.Link) int {
	channels := ethtoolChannels{cmd: unix.ETHTOOL_GCHANNELS}
	err := ethtool(nl.Attrs().Name, unsafe.Pointer(&channels))
	if n := channels.rxCount + channels.bothWaysRxTx; err == nil && n > 0 {
		return int(n)
	}
	return nl.Attrs().NumRxQueues
}

// ethtool runs one SIOCETHTOOL that reads. value points to the struct of its command.
func ethtool(ifname string, value unsafe.Pointer) error {
	var request struct {
		name  [unix.IFNAMSIZ]byte
		value unsafe.Pointer
		_     [16]byte // the rest of struct ifreq
	}
	if copy(request.name[:unix.IFNAMSIZ-1], ifname) != len(ifname) {
		return unix.ENODEV
	}
	request.value = value
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errno
	}
	return nil
}
