// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/synward/synward/pkg/internal/testenv"
)

// Two instances on one interface, below Linux 6.6: the second takes nothing off that it did not attach.
func TestBugSecondInstanceReplacesTheFiltersOfTheFirst(t *testing.T) {
	testenv.RequireRoot(t)
	pair := testenv.NewPair(t, testenv.PairOptions{})
	program := newProgramLab(t, frozen{linkHeader: true}).program(hookClsact)
	first, err := program.Info()
	must(t, err)
	id, _ := first.ID()
	must(t, pair.Server.Do(func() error {
		nl, err := netlink.LinkByName(pair.ServerIf)
		if err != nil {
			return err
		}
		if _, _, err := hookUp(hookClsact, ModeTC, nl, program); err != nil {
			return err
		}
		if err := foreignFilter(nl, hookClsact, map[ebpf.ProgramID]bool{id: true}); err != nil {
			t.Errorf("our own filter: %v", err)
		}
		if err := foreignFilter(nl, hookClsact, map[ebpf.ProgramID]bool{id + 1: true}); !errors.Is(err, ErrRefused) {
			t.Errorf("the filter of another instance: %v, want ErrRefused", err)
		}
		return nil
	}))
}
