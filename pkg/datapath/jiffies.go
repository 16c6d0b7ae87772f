// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// jiffiesSample is the kernel's count of ticks and its clock, read one right after the other.
type jiffiesSample struct{ Jiffies, Ns uint64 }

// measureJiffies finds how far CLOCK_MONOTONIC is ahead of the ticks that the kernel has counted. The kernel
// counts them by that clock (tick_do_update_jiffies64), so the distance stays what it is until the next boot;
// read at a random moment it is up to a tick more, so the least of several ticks is taken. ok is false
// where the two do not go together: then the data path asks the coarse clock.
func measureJiffies(tick time.Duration) (offset uint64, ok bool, err error) {
	read, err := newJiffiesReader()
	if err != nil {
		return 0, false, err
	}
	defer read.close()
	first, err := read.sample()
	if err != nil {
		return 0, false, err
	}
	least := ^uint64(0)
	for most := uint64(0); ; {
		s, err := read.sample()
		if err != nil {
			return 0, false, err
		}
		distance := s.Ns - s.Jiffies*uint64(tick)
		least, most = min(least, distance), max(most, distance)
		switch passed := s.Ns - first.Ns; {
		case passed > uint64(100*tick):
			return 0, false, nil // no tick came in all that time
		case s.Jiffies-first.Jiffies >= 3:
			return least, passed < uint64(6*tick) && int64(most-least) < int64(3*tick), nil
		}
	}
}

// jiffiesReader is a small program that reads both in the kernel.
type jiffiesReader struct {
	prog *ebpf.Program
	out  *ebpf.Map
}

func newJiffiesReader() (*jiffiesReader, error) {
	out, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("read jiffies: %w", err)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.FnJiffies64.Call(),
			asm.Mov.Reg(asm.R6, asm.R0),
			asm.FnKtimeGetNs.Call(),
			asm.LoadMapValue(asm.R1, out.FD(), 0),
			asm.StoreMem(asm.R1, 0, asm.R6, asm.DWord),
			asm.StoreMem(asm.R1, 8, asm.R0, asm.DWord),
			asm.Mov.Imm(asm.R0, 2),
			asm.Return(),
		},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read jiffies: %w", err), out.Close())
	}
	return &jiffiesReader{prog, out}, nil
}

func (r *jiffiesReader) sample() (s jiffiesSample, err error) {
	for {
		_, err = r.prog.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		err = r.out.Lookup(uint32(0), &s)
	}
	if err != nil {
		return s, fmt.Errorf("read jiffies: %w", err)
	}
	return s, nil
}

func (r *jiffiesReader) close() {
	r.prog.Close()
	r.out.Close()
}
