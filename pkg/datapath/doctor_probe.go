// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// loopbackIndex is the index of lo in every network namespace.
const loopbackIndex = 1

// notSupported reads what kernels answer to something that they do not know. 524 is ENOTSUPP, which
// has no name outside the kernel and comes from JITs.
func notSupported(err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.E2BIG) || errors.Is(err, unix.Errno(524)) {
		return ebpf.ErrNotSupported
	}
	return err
}

// loadTiny loads a program of a few instructions that passes every packet. The caller closes it.
func loadTiny(spec ebpf.ProgramSpec) (*ebpf.Program, error) {
	spec.Type = ebpf.XDP
	spec.License = "Dual BSD/GPL"
	if spec.Instructions == nil {
		spec.Instructions = passAll()
	}
	prog, err := ebpf.NewProgramWithOptions(&spec, ebpf.ProgramOptions{LogDisabled: true})
	return prog, notSupported(err)
}

func probeProgram(spec ebpf.ProgramSpec) error {
	prog, err := loadTiny(spec)
	if err != nil {
		return err
	}
	return prog.Close()
}

func passAll() asm.Instructions {
	const xdpPass = 2
	return asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()}
}

// probeFrags: XDP on frames in more than one buffer (Linux 5.18).
func probeFrags() error {
	return probeProgram(ebpf.ProgramSpec{Flags: unix.BPF_F_XDP_HAS_FRAGS})
}

// probeCmpXchg: atomic compare-and-exchange of 64 bits (Linux 5.12, later on some architectures).
func probeCmpXchg() error {
	return probeProgram(ebpf.ProgramSpec{Instructions: append(asm.Instructions{
		asm.Mov.Imm(asm.R0, 0),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
		asm.CmpXchg.Mem(asm.RFP, asm.R1, asm.DWord, -8),
	}, passAll()...)})
}

// function gives the first of its instructions the type that the verifier wants of a function.
func function(name string, linkage btf.FuncLinkage, params []btf.FuncParam, body asm.Instructions) asm.Instructions {
	proto := &btf.FuncProto{Return: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}, Params: params}
	body[0] = btf.WithFuncMetadata(body[0].WithSymbol(name), &btf.Func{Name: name, Type: proto, Linkage: linkage})
	return body
}

// tinyMain is the entry of a program that has other functions too.
func tinyMain(body asm.Instructions) asm.Instructions {
	ctx := &btf.Pointer{Target: &btf.Struct{Name: "xdp_md"}}
	return function("tiny", btf.GlobalFunc, []btf.FuncParam{{Name: "ctx", Type: ctx}}, body)
}

// probeGlobalFunction: functions that are verified by themselves, which takes BTF (Linux 5.6).
func probeGlobalFunction() error {
	main := tinyMain(append(asm.Instructions{asm.Call.Label("part")}, passAll()...))
	return probeProgram(ebpf.ProgramSpec{Instructions: append(main, function("part", btf.GlobalFunc, nil, passAll())...)})
}

// probeCallback: bpf_loop with a callback (Linux 5.17), which runs only where the JIT is on.
func probeCallback() error {
	callback := asm.Instruction{
		OpCode: asm.LoadImmOp(asm.DWord), Dst: asm.R2, Src: asm.PseudoFunc, Constant: -1,
	}.WithReference("step")
	main := tinyMain(append(asm.Instructions{
		asm.Mov.Imm(asm.R1, 1),
		callback,
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnLoop.Call(),
	}, passAll()...))
	step := function("step", btf.StaticFunc, []btf.FuncParam{
		{Name: "index", Type: &btf.Int{Name: "unsigned int", Size: 4}},
		{Name: "state", Type: &btf.Pointer{Target: &btf.Void{}}},
	}, asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()})
	return probeProgram(ebpf.ProgramSpec{Instructions: append(main, step...)})
}

// probeJIT asks a program whether it was compiled: the sysctl is not visible in every namespace.
func probeJIT() error {
	prog, err := loadTiny(ebpf.ProgramSpec{})
	if err != nil {
		return err
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return err
	}
	if _, err := info.JitedSize(); err != nil {
		return probeError("off, or hidden from this process")
	}
	return nil
}

// probeXDPLink asks for native XDP on lo, which has none: a kernel that knows XDP links (Linux 5.9)
// says so, another does not know what is asked. Should lo learn native XDP, a program that passes
// everything is on it for as long as this takes.
func probeXDPLink() error {
	prog, err := loadTiny(ebpf.ProgramSpec{})
	if err != nil {
		return err
	}
	defer prog.Close()
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: loopbackIndex, Flags: link.XDPDriverMode})
	switch {
	case err == nil:
		return l.Close()
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EBUSY):
		return nil
	}
	return notSupported(err)
}

// haveTCX asks what is attached to lo by tcx (Linux 6.6).
func haveTCX() error {
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopbackIndex, Attach: ebpf.AttachTCXIngress})
	return notSupported(err)
}

// haveMembarrier asks which commands membarrier(2) has; kernels with nohz_full lack the global one.
func haveMembarrier() error {
	const query, global = 0, 1
	commands, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, query, 0, 0)
	if errno != 0 || commands&global == 0 {
		return ebpf.ErrNotSupported
	}
	return nil
}

func probeBPFFS(dir pinDir) (string, error) {
	parent := parentOf(dir)
	var st unix.Statfs_t
	if err := unix.Statfs(parent, &st); err != nil {
		return "", probeError(fmt.Sprintf("%s: %v", parent, err))
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return "", probeError(fmt.Sprintf("%s is none, and pins need one", parent))
	}
	return parent, nil
}

func parentOf(dir pinDir) string { return filepath.Dir(string(dir)) }

// probePrivileges wants root and the capabilities that it usually has. CAP_SYS_ADMIN contains the
// first and the last of them (capabilities(7)).
func probePrivileges() (string, error) {
	if uid := os.Geteuid(); uid != 0 {
		return "", probeError(fmt.Sprintf("runs as user %d and not as root", uid))
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return "", fmt.Errorf("read capabilities: %w", err)
	}
	if lacking := lackingCapabilities(data); len(lacking) > 0 {
		return "", probeError("root, but without " + strings.Join(lacking, ", "))
	}
	return "root", nil
}

func lackingCapabilities(data [2]unix.CapUserData) (names []string) {
	has := func(c uint) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }
	admin := has(unix.CAP_SYS_ADMIN)
	if !admin && !has(unix.CAP_BPF) {
		names = append(names, "CAP_BPF")
	}
	if !has(unix.CAP_NET_ADMIN) {
		names = append(names, "CAP_NET_ADMIN")
	}
	if !admin && !has(unix.CAP_PERFMON) {
		names = append(names, "CAP_PERFMON")
	}
	return names
}
