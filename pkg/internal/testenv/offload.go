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
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_STXCSUM}
	if on {
		value.data = 1
	}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	if copy(request.name[:unix.IFNAMSIZ-1], ifname) != len(ifname) {
		return fmt.Errorf("set checksum offload: interface name %q is too long", ifname)
	}
	request.data = unsafe.Pointer(&value)
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("set checksum offload: open socket: %w", err)
		}
		defer unix.Close(fd)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			return fmt.Errorf("set checksum offload of %s: %w", ifname, errno)
		}
		return nil
	})
}
