// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// NeedsBytesOut is what a limit of bytes_out asks of a program.
const NeedsBytesOut = uint32(limiterFeatureFEATURE_BYTES_OUT)

// Owed is how many bytes a source owes to the first limit of the policy in force, which counts them.
func (i *Instance) Owed(t *testing.T, source netip.Addr) float64 {
	t.Helper()
	l, err := i.limitAt(slotOfGeneration(i.live().generation), 0)
	if err != nil {
		t.Fatal(err)
	}
	slot := meterSlot(i.tables, &l, hashKey(&i.control.Hash, &l, source, netip.Addr{}))
	if slot == nil {
		return 0
	}
	owed := level(&l, atomic.LoadUint64(slot), monotonicNow())
	return float64(owed) * float64(uint64(1)<<l.CostShift) / float64(l.Cost)
}

// EgressPrograms are the programs of ours at an interface's egress, by tcx and clsact, and whether clsact is there. The
// caller is in its namespace.
func EgressPrograms(t *testing.T, ifname string) (ours []ebpf.ProgramID, clsact bool) {
	t.Helper()
	nl, err := netlink.LinkByName(ifname)
	if err != nil {
		t.Fatal(err)
	}
	// Before Linux 6.6 there is no tcx to ask.
	if res, err := link.QueryPrograms(link.QueryOptions{Target: nl.Attrs().Index, Attach: ebpf.AttachTCXEgress}); err == nil {
		for _, p := range res.Programs {
			if programName(p.ID) == limiterProgSynwardOut {
				ours = append(ours, p.ID)
			}
		}
	}
	f, err := findFilter(nl, hookClsactOut)
	if err != nil {
		t.Fatal(err)
	}
	if f != nil {
		ours = append(ours, ebpf.ProgramID(f.Id))
	}
	qdiscs, err := netlink.QdiscList(nl)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qdiscs {
		clsact = clsact || q.Type() == "clsact"
	}
	return ours, clsact
}

// PutEgressByClsact puts the second hook of an attachment there as kernels without tcx get it. The caller is in its
// namespace.
func (i *Instance) PutEgressByClsact(t *testing.T, ifname string) {
	t.Helper()
	at := i.attachmentOf(t, ifname)
	must(t, i.dropEgress(at))
	f := at.record.frozen()
	f.slot, f.features = at.slot, at.record.Features
	must(t, i.tryEgress(at, hookClsactOut, at.device(), f))
}

// LoseEgress takes the program off its hook behind the instance's back.
func (i *Instance) LoseEgress(t *testing.T, ifname string) {
	t.Helper()
	out, ok := i.attachmentOf(t, ifname).egress()
	if !ok {
		t.Fatal("there is no second hook")
	}
	if out.key.hook.filter() {
		f, err := findFilter(out.device(), out.key.hook)
		must(t, err)
		must(t, netlink.FilterDel(f))
		return
	}
	l, err := link.LoadPinnedLink(i.dir.link(out.key), nil)
	must(t, err)
	defer l.Close()
	must(t, l.Detach())
}
