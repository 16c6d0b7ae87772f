// SPDX-License-Identifier: Apache-2.0

package trafficgen

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Send transmits crafted frames, one after the other, through an interface of ns. They go out as they are and
// reach the far end of a veth like any other, its native XDP program included.
func Send(ns Namespace, ifindex int, frames ...[]byte) error {
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("send: open packet socket: %w", err)
		}
		defer unix.Close(fd)
		for i, frame := range frames {
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ifindex}); err != nil {
				return fmt.Errorf("send frame %d of %d bytes: %w", i, len(frame), err)
			}
		}
		return nil
	})
}
