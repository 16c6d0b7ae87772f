// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// selfTestEthertype is IEEE 802 local experimental ethertype 1: no station acts on it.
const selfTestEthertype = 0x88B5

// Interfaces looks at every attachment as it is now, in whatever namespace it lies.
func (i *Instance) Interfaces() ([]Interface, error) {
	all, err := i.attached()
	if err != nil {
		return nil, err
	}
	own, err := netnsCookie()
	if err != nil {
		return nil, err
	}
	elsewhere := map[uint64]bool{}
	for _, at := range all {
		if at.key.cookie != own {
			elsewhere[at.key.cookie] = true
		}
	}
	found := map[uint64]foundNetns{}
	if len(elsewhere) > 0 {
		found = findNetns(elsewhere)
	}
	var out []Interface
	for _, at := range all {
		shown, err := i.show(at, own, found)
		if err != nil {
			return nil, err
		}
		out = append(out, shown)
	}
	return out, nil
}

// show describes one attachment from inside its namespace.
func (i *Instance) show(at attachment, own uint64, found map[uint64]foundNetns) (Interface, error) {
	out := Interface{
		Name: at.record.name(), Ifindex: at.key.ifindex, Mode: modeFromCode(at.record.Hook),
		AttachedAt: time.Unix(int64(at.record.AttachedAt), 0), Traffic: TrafficUnknown,
	}
	look := func() error { return i.look(at, &out) }
	if at.key.cookie == own {
		return out, look()
	}
	ns, ok := found[at.key.cookie]
	if !ok {
		out.Netns = fmt.Sprintf("cookie:%d", at.key.cookie)
		out.Why = "its network namespace is gone, or has no name and no process; detach --all removes it"
		return out, nil
	}
	out.Netns = ns.name
	return out, inNetns(ns.path, look)
}

func (i *Instance) look(at attachment, out *Interface) error {
	nl := at.device()
	state := at.inspect(nl)
	out.Why = state.why
	if nl != nil {
		out.Name = nl.Attrs().Name
	}
	if state.live {
		out.Why = i.test(at, nl)
		out.Armed = out.Why == ""
	}
	out.unconfirmed(at.record.ObserveAfter, monotonicNow())
	return i.measure(at, nl, out)
}

// test runs the programs of hooks that look right, and says what is wrong with them; empty: nothing.
func (i *Instance) test(at attachment, nl netlink.Link) (why string) {
	if why := at.inspectEgress(nl, needsEgress(i.featuresNeeded())); why != "" {
		return why
	}
	for _, one := range at.hooks() {
		if err := i.selfTest(one); err != nil {
			return err.Error()
		}
	}
	return ""
}

// unconfirmed: a program whose time to be confirmed is over refuses nothing, so it is not armed.
func (out *Interface) unconfirmed(after uint32, nowNs uint64) {
	if after == 0 {
		return
	}
	end := uint64(after) * uint64(time.Second)
	out.Unconfirmed, out.Left = true, time.Duration(end-min(end, nowNs))
	if out.Armed && out.Left == 0 {
		out.Armed, out.Why = false, "nobody confirmed it in time, so it refuses nothing; to change that: synward confirm"
	}
}

// measure holds what the interface received against what its program judged, both since attach.
func (i *Instance) measure(at attachment, nl netlink.Link, out *Interface) error {
	if nl == nil {
		out.Traffic = TrafficNone
		return nil
	}
	judged, err := i.judged(at.slot)
	if err != nil {
		return err
	}
	out.Judged = judged - min(judged, at.record.JudgedBefore)
	received := receivedPackets(nl)
	out.Received = received - min(received, at.record.ReceivedBefore)
	out.Traffic = trafficOf(out.Received, out.Judged)
	if out.Mode == ModeGeneric && out.Traffic == TrafficPartial {
		// Generic XDP sees a buffer that GRO merged as one packet; the interface counted them all.
		out.Traffic = TrafficFlowing
	}
	if out.Why == "" {
		out.Why = trafficWhy(out.Traffic)
	}
	return nil
}

// readSlack is how many packets may come between reading the two counts.
const readSlack = 64

// trafficOf: partial is less than nine in ten. Some drivers count a packet that XDP dropped and some
// do not, so judging more than was received is fine.
func trafficOf(received, judged uint64) Traffic {
	switch {
	case judged == 0:
		return TrafficNone
	case judged+readSlack < received && judged < received/10*9:
		return TrafficPartial
	default:
		return TrafficFlowing
	}
}

func trafficWhy(t Traffic) string {
	switch t {
	case TrafficNone:
		return "no packet has gone through the program yet; is this the interface that your clients come in by?"
	case TrafficPartial:
		return "the interface receives more than the program sees; `synward doctor` looks for the cause"
	default:
		return ""
	}
}

// receivedPackets is what the interface says it received, in packets.
func receivedPackets(nl netlink.Link) uint64 {
	fresh, err := netlink.LinkByIndex(nl.Attrs().Index)
	if err != nil || fresh.Attrs().Statistics == nil {
		return 0
	}
	return fresh.Attrs().Statistics.RxPackets
}

// selfTest runs the pinned program once on a frame that it knows and wants its counter to move.
func (i *Instance) selfTest(at attachment) error {
	prog, err := ebpf.LoadPinnedProgram(at.dir.prog(at.key), nil)
	if err != nil {
		return fmt.Errorf("open program: %w", err)
	}
	defer prog.Close()
	before, err := i.ends(at.slot)
	if err != nil {
		return err
	}
	frame := make([]byte, 64)
	binary.BigEndian.PutUint16(frame[12:], selfTestEthertype)
	if _, err := prog.Run(&ebpf.RunOptions{Data: frame}); err != nil {
		return fmt.Errorf("self test: %w", err)
	}
	after, err := i.ends(at.slot)
	if err != nil {
		return err
	}
	if after.reason(limiterReasonREASON_SELF_TEST) == before.reason(limiterReasonREASON_SELF_TEST) {
		return errors.New("self test: the program ran and counted nothing; detach and attach again")
	}
	return nil
}

// hasLinkHeader tells interfaces whose frames begin with an Ethernet header from L3 tunnels.
func hasLinkHeader(nl netlink.Link) bool {
	switch nl.Attrs().EncapType {
	case "ether", "loopback":
		return true
	default:
		return false
	}
}
