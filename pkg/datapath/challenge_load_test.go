// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// What nobody needs must not keep a program from loading: without challenges it asks for no types of the kernel and
// calls none of the helpers that answer for it.
func TestProgramWithoutChallengesAsksForLess(t *testing.T) {
	const without = uint32(limiterFeatureFEATURE_ALL) &^ uint32(limiterFeatureFEATURE_CHALLENGE|limiterFeatureFEATURE_PROVEN)
	for _, h := range bothHooks {
		for features, wanted := range map[uint32]bool{without: false, uint32(limiterFeatureFEATURE_ALL): true} {
			f := frozen{linkHeader: true, features: features}
			if got := kernelTypes(t, h, f); got > 0 != wanted {
				t.Errorf("%s with features %#x asks for %d types of the kernel", h, features, got)
			}
			if got := challengeCalls(t, h, f); got > 0 != wanted {
				t.Errorf("%s with features %#x makes %d calls for a challenge", h, features, got)
			}
		}
	}
}

func kernelTypes(t *testing.T, h hook, f frozen) (n int) {
	t.Helper()
	spec, err := f.spec(h)
	must(t, err)
	for _, prog := range spec.Programs {
		for i := range prog.Instructions {
			if btf.CORERelocationMetadata(&prog.Instructions[i]) != nil {
				n++
			}
		}
	}
	return n
}

// challengeCalls counts in what the kernel has left of a program.
func challengeCalls(t *testing.T, h hook, f frozen) (n int) {
	t.Helper()
	m, err := createMaps()
	must(t, err)
	defer m.close()
	prog, err := m.loadProgram(h, f)
	must(t, err)
	defer prog.Close()
	info, err := prog.Info()
	must(t, err)
	left, err := info.Instructions()
	must(t, err)
	helpers := map[asm.BuiltinFunc]bool{
		asm.FnTcpRawGenSyncookieIpv4: true, asm.FnTcpRawGenSyncookieIpv6: true, asm.FnTcpRawCheckSyncookieIpv4: true,
		asm.FnTcpRawCheckSyncookieIpv6: true, asm.FnSkcToTcpSock: true, asm.FnSkcLookupTcp: true,
	}
	for _, ins := range left {
		if ins.IsBuiltinCall() && helpers[asm.BuiltinFunc(ins.Constant)] {
			n++
		}
	}
	return n
}
