// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/synward/synward/pkg/internal/testenv"
)

// Two instances on one interface, below Linux 6.6: the second takes nothing off that it did not attach.
func TestReviewSecondInstanceReplacesTheFiltersOfTheFirst(t *testing.T) {
	testenv.RequireRoot(t)
	pair := testenv.NewPair(t, testenv.PairOptions{})
	var programs []*ebpf.Program
	for range 2 {
		l := newProgramLab(t, frozen{linkHeader: true})
		programs = append(programs, l.program(hookClsact))
	}
	first, err := programs[0].Info()
	must(t, err)
	id, _ := first.ID()
	must(t, pair.Server.Do(func() error {
		nl, err := netlink.LinkByName(pair.ServerIf)
		if err != nil {
			return err
		}
		if _, _, err := hookUp(hookClsact, ModeTC, nl, programs[0]); err != nil {
			return err
		}
		_, _, err = hookUp(hookClsact, ModeTC, nl, programs[1])
		f, findErr := findFilter(nl)
		if findErr != nil {
			return findErr
		}
		if f == nil || ebpf.ProgramID(f.Id) != id {
			t.Errorf("the first instance's filter is gone from its interface (second: %v)", err)
		}
		return nil
	}))
}
