// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/cilium/ebpf/btf"
)

// What nobody needs must not keep a program from loading: without challenges and probes it asks for no types of the kernel.
func TestProgramWithoutChallengesAsksForLess(t *testing.T) {
	const without = uint32(limiterFeatureFEATURE_ALL) &^ uint32(limiterFeatureFEATURE_CHALLENGE|limiterFeatureFEATURE_PROVEN|limiterFeatureFEATURE_PROBE)
	for _, h := range bothHooks {
		for features, wanted := range map[uint32]bool{without: false, uint32(limiterFeatureFEATURE_ALL): true} {
			f := frozen{linkHeader: true, features: features}
			if got := kernelTypes(t, h, f); got > 0 != wanted {
				t.Errorf("%s with features %#x asks for %d types of the kernel", h, features, got)
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
