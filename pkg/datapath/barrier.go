// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// waitForPrograms returns when no BPF program runs that began before the call: programs run inside
// RCU, and a global membarrier is a grace period (membarrier(2)). Kernels with full tickless CPUs
// refuse it; there an update of a map of maps waits in the same way (maybe_wait_bpf_programs).
func waitForPrograms() error {
	const membarrierCmdGlobal = 1
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierCmdGlobal, 0, 0)
	if errno == 0 {
		return nil
	}
	if err := waitByMapOfMaps(); err != nil {
		return fmt.Errorf("wait for running programs: membarrier: %w; map of maps: %w", errno, err)
	}
	return nil
}

func waitByMapOfMaps() error {
	inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner,
	})
	if err != nil {
		return err
	}
	defer outer.Close()
	element, err := ebpf.NewMap(inner)
	if err != nil {
		return err
	}
	defer element.Close()
	return outer.Put(uint32(0), element)
}
