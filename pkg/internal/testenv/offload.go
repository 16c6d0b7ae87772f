// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SetTxChecksum switches whether an interface fills in checksums itself. A veth that does leaves them to its
// peer, which believes them (CHECKSUM_PARTIAL); one that does not is handed packets with real ones, so that the
// peer's stack checks what it gets.
func (ns *Namespace) SetTxChecksum(ifname string, on bool) error {
	return ns.setOffload(ifname, "checksum offload", unix.ETHTOOL_STXCSUM, on)
}

// SetSegmentation says who cuts large buffers into packets: with tso the device, which on a veth is nobody; with gso
// alone the stack, behind programs at egress; with neither they are small from the start.
func (ns *Namespace) SetSegmentation(ifname string, tso, gso bool) error {
	if err := ns.setOffload(ifname, "gso", unix.ETHTOOL_SGSO, gso); err != nil {
		return err
	}
	return ns.setOffload(ifname, "tso", unix.ETHTOOL_STSO, tso)
}

func (ns *Namespace) setOffload(ifname, what string, cmd uint32, on bool) error {
	value := struct{ cmd, data uint32 }{cmd: cmd}
	if on {
		value.data = 1
	}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	if copy(request.name[:unix.IFNAMSIZ-1], ifname) != len(ifname) {
		return fmt.Errorf("set %s: interface name %q is too long", what, ifname)
	}
	request.data = unsafe.Pointer(&value)
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("set %s: open socket: %w", what, err)
		}
		defer unix.Close(fd)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			return fmt.Errorf("set %s of %s: %w", what, ifname, errno)
		}
		return nil
	})
}
