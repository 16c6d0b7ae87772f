// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// programFeatures are the kinds of program and what the compiler's output takes for granted.
func programFeatures() []feature {
	kind := func(t ebpf.ProgramType) func() (string, error) {
		return plain(func() error { return features.HaveProgramType(t) })
	}
	return []feature{
		{name: "xdp programs", probe: kind(ebpf.XDP), need: "modes native and generic need them"},
		{name: "tc programs", probe: kind(ebpf.SchedCLS), need: "mode tc needs them"},
		{name: "xdp multi-buffer", probe: plain(probeFrags), need: "jumbo frames need it (xdp.frags)"},
		{name: "instructions v3", probe: plain(features.HaveV3ISA), need: "the programs are compiled for them"},
		{name: "compare-and-swap", probe: plain(probeCmpXchg), need: "exact limits need it"},
		{name: "global functions", probe: plain(probeGlobalFunction), need: "the parser needs them"},
		{
			name: "jit", probe: plain(probeJIT), need: "callbacks of bpf_loop run only when compiled",
			fix: "sysctl -w net.core.bpf_jit_enable=1",
		},
		{name: "callbacks", probe: plain(probeCallback), need: "walking headers and options needs them"},
	}
}

// helperFeatures are the functions of the kernel that the programs call.
func helperFeatures() []feature {
	xdp, tc := []ebpf.ProgramType{ebpf.XDP}, []ebpf.ProgramType{ebpf.SchedCLS}
	both := []ebpf.ProgramType{ebpf.XDP, ebpf.SchedCLS}
	const clock, parser = "the clock needs it", "the parser needs it"
	return []feature{
		helperFeature("bpf_loop", asm.FnLoop, both, parser),
		helperFeature("bpf_ktime_get_ns", asm.FnKtimeGetNs, both, clock),
		helperFeature("bpf_ktime_get_coarse_ns", asm.FnKtimeGetCoarseNs, both, clock),
		helperFeature("bpf_get_prandom_u32", asm.FnGetPrandomU32, both, "sampling needs it"),
		helperFeature("bpf_xdp_load_bytes", asm.FnXdpLoadBytes, xdp, parser),
		helperFeature("bpf_xdp_get_buff_len", asm.FnXdpGetBuffLen, xdp, "counting bytes needs it"),
		helperFeature("bpf_skb_load_bytes", asm.FnSkbLoadBytes, tc, parser),
		helperFeature("bpf_skb_load_bytes_relative", asm.FnSkbLoadBytesRelative, tc, parser),
	}
}

func helperFeature(name string, fn asm.BuiltinFunc, types []ebpf.ProgramType, need string) feature {
	probe := func() error {
		for _, t := range types {
			if err := features.HaveProgramHelper(t, fn); err != nil {
				return err
			}
		}
		return nil
	}
	return feature{name: "helper " + name, probe: plain(probe), need: need}
}

// mapFeatures are the kinds of map and their flags.
func mapFeatures() []feature {
	kind := func(name string, t ebpf.MapType, need string) feature {
		probe := func() error { return features.HaveMapType(t) }
		return feature{name: "map " + name, probe: plain(probe), need: need}
	}
	flag := func(name string, f features.MapFlags, need string) feature {
		probe := func() error { return features.HaveMapFlag(f) }
		return feature{name: "map flag " + name, probe: plain(probe), need: need}
	}
	return []feature{
		kind("array", ebpf.Array, "the policy needs it"),
		kind("percpu_array", ebpf.PerCPUArray, "counters need it"),
		kind("hash", ebpf.Hash, "lists need it"),
		kind("lru_hash", ebpf.LRUHash, "the ledger of sources needs it"),
		kind("lpm_trie", ebpf.LPMTrie, "lists of prefixes need it"),
		flag("mmapable", features.BPF_F_MMAPABLE, "meters and the list index need it"),
		flag("no_prealloc", features.BPF_F_NO_PREALLOC, "lists need it"),
	}
}

// optionalFindings are what is good to have or to know.
func optionalFindings() []Finding {
	tcx := "yes"
	if err := haveTCX(); err != nil {
		tcx = "not in this kernel: mode tc uses clsact filters, which `tc filter del` can take away"
	}
	barrier := "yes"
	if err := haveMembarrier(); err != nil {
		barrier = "not global in this kernel: a change of policy waits by a map of maps"
	}
	vmlinux := "yes"
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		vmlinux = "not in this kernel: `over: challenge` and bans over limits of `new` need it"
	}
	tick := fmt.Sprintf("%v; limits that fill within %v are judged by the precise clock",
		clockTick(), preciseTicks*clockTick())
	return []Finding{
		{Name: "tcx", OK: true, Detail: tcx},
		{Name: "membarrier", OK: true, Detail: barrier},
		{Name: "kernel btf", OK: true, Detail: vmlinux},
		{Name: "clock tick", OK: true, Detail: tick},
		{Name: "root cgroup v2", OK: true, Detail: cgroupDetail()},
	}
}
