// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hook is where in the kernel a program sits. The mode says how it was put there.
type hook string

const (
	hookXDP    hook = "xdp"
	hookTCX    hook = "tcx"
	hookClsact hook = "clsact"
	// The second hook of an attachment, where what is sent is counted.
	hookTCXOut    hook = "tcxout"
	hookClsactOut hook = "clsactout"
)

func (h hook) valid() bool {
	return h == hookXDP || h == hookTCX || h == hookClsact || h.egress()
}

func (h hook) egress() bool { return h == hookTCXOut || h == hookClsactOut }

// filter: the hook is a filter of clsact, which has no link.
func (h hook) filter() bool { return h == hookClsact || h == hookClsactOut }

// parent is where a filter hangs.
func (h hook) parent() uint32 {
	if h.egress() {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

// side is what tc calls the hook's side of an interface.
func (h hook) side() string {
	if h.egress() {
		return "egress"
	}
	return "ingress"
}

// program is the name of the entry that a hook runs.
func (h hook) program() string {
	switch {
	case h == hookXDP:
		return limiterProgSynwardXdp
	case h.egress():
		return limiterProgSynwardOut
	}
	return limiterProgSynwardTc
}

// hooks lists what a mode may be attached by, best first.
func (m Mode) hooks() []hook {
	if m == ModeTC {
		return []hook{hookTCX, hookClsact}
	}
	return []hook{hookXDP}
}

// code is how an interface record keeps its mode.
func (m Mode) code() uint32 {
	for i, known := range modeCodes {
		if m == known {
			return uint32(i)
		}
	}
	return 0
}

var modeCodes = [...]Mode{"", ModeNative, ModeTC, ModeGeneric}

// madeClsact marks, beside the mode, an attachment that made its clsact itself.
const madeClsact = 1 << 16

func modeFromCode(code uint32) Mode {
	code &^= madeClsact
	if code < uint32(len(modeCodes)) {
		return modeCodes[code]
	}
	return ""
}

// filterPriority and filterHandle mark our clsact filter: a replacement is one step, and nothing of
// anyone else's is touched.
const (
	filterPriority = 1
	filterHandle   = 0x5379 // "Sy"
	filterName     = "synward"
)

// hookUp puts prog on the interface and returns the link to pin; nil for clsact, which has none, and
// then whether clsact itself was made. Nothing that is there already is displaced.
func hookUp(h hook, m Mode, nl netlink.Link, prog *ebpf.Program) (l link.Link, made bool, err error) {
	index := nl.Attrs().Index
	switch h {
	case hookXDP:
		flags := link.XDPDriverMode
		if m == ModeGeneric {
			flags = link.XDPGenericMode
		}
		l, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: index, Flags: flags})
	case hookTCX, hookTCXOut:
		where := ebpf.AttachTCXIngress
		if h.egress() {
			where = ebpf.AttachTCXEgress
		}
		l, err = link.AttachTCX(link.TCXOptions{Program: prog, Interface: index, Attach: where, Anchor: link.Head()})
	default:
		made, err = addFilter(nl, h, prog)
	}
	return l, made, err
}

// addFilter attaches by clsact, for kernels before 6.6. The queueing discipline may be there already.
func addFilter(nl netlink.Link, h hook, prog *ebpf.Program) (made bool, err error) {
	err = netlink.QdiscAdd(clsact(nl))
	if err != nil && !errors.Is(err, os.ErrExist) {
		return false, fmt.Errorf("add clsact: %w", err)
	}
	made = err == nil
	if err := netlink.FilterReplace(filterFor(nl, h, prog.FD())); err != nil {
		err = addFilterError(nl, h, err)
		if made {
			err = errors.Join(err, netlink.QdiscDel(clsact(nl)))
		}
		return false, err
	}
	return made, nil
}

// addFilterError names the filter that stands where ours must, before all others.
func addFilterError(nl netlink.Link, h hook, err error) error {
	filters, listErr := netlink.FilterList(nl, h.parent())
	if listErr == nil {
		for _, f := range filters {
			if f.Attrs().Priority == filterPriority {
				return fail(ErrRefused, "%s has a %s filter with priority %d at its %s, where synward must come first; give it another priority (tc filter show dev %[1]s %[4]s)",
					nl.Attrs().Name, f.Type(), filterPriority, h.side())
			}
		}
	}
	return fmt.Errorf("add filter: %w", err)
}

func clsact(nl netlink.Link) netlink.Qdisc {
	return &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: nl.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	}
}

func filterFor(nl netlink.Link, h hook, fd int) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: nl.Attrs().Index, Parent: h.parent(),
			Handle: filterHandle, Protocol: unix.ETH_P_ALL, Priority: filterPriority,
		},
		Fd: fd, Name: filterName, DirectAction: true,
	}
}

// findFilter returns our clsact filter, nil if it is not there.
func findFilter(nl netlink.Link, h hook) (*netlink.BpfFilter, error) {
	filters, err := netlink.FilterList(nl, h.parent())
	if err != nil {
		return nil, fmt.Errorf("list filters: %w", err)
	}
	for _, f := range filters {
		b, ok := f.(*netlink.BpfFilter)
		if ok && b.Handle == filterHandle && b.Name == filterName {
			return b, nil
		}
	}
	return nil, nil
}

// removeFilter takes the attachment's filter away, and clsact with it if attach made it and nobody else uses
// it. Another instance's filter stays.
func (at attachment) removeFilter(nl netlink.Link) error {
	f, err := findFilter(nl, at.key.hook)
	if err != nil {
		return err
	}
	if f != nil {
		ours, err := at.isOurs(ebpf.ProgramID(f.Id))
		if err != nil || !ours {
			return err
		}
		if err := netlink.FilterDel(f); err != nil {
			return fmt.Errorf("remove filter: %w", err)
		}
	}
	if at.record.Hook&madeClsact == 0 {
		return nil
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		left, err := netlink.FilterList(nl, parent)
		if err != nil || len(left) > 0 {
			return err
		}
	}
	return netlink.QdiscDel(clsact(nl))
}

// foreignFilter refuses an interface where the filter of another instance stands in the place of ours, for a new one
// would displace it.
func foreignFilter(nl netlink.Link, h hook, ours map[ebpf.ProgramID]bool) error {
	f, err := findFilter(nl, h)
	if err != nil || f == nil || ours[ebpf.ProgramID(f.Id)] {
		return err
	}
	return fail(ErrRefused, "%s has the filter of another instance of synward at its %s (%s); detach it there first",
		nl.Attrs().Name, h.side(), describeProgram(ebpf.ProgramID(f.Id)))
}

// dyingFor is how long a program that a killed command left may take to leave its hook.
const dyingFor = time.Second

// foreignXDP refuses an interface that runs somebody else's XDP program, by name. One of ours that no
// pin holds belongs to a command that was killed, and is gone in a moment; what stays is of another
// instance.
func foreignXDP(nl netlink.Link, ours map[ebpf.ProgramID]bool) error {
	name := nl.Attrs().Name
	for deadline := time.Now().Add(dyingFor); ; time.Sleep(dyingFor / 100) {
		fresh, err := netlink.LinkByIndex(nl.Attrs().Index)
		if err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		xdp := fresh.Attrs().Xdp
		if xdp == nil || !xdp.Attached || ours[ebpf.ProgramID(xdp.ProgId)] {
			return nil
		}
		program := describeProgram(ebpf.ProgramID(xdp.ProgId))
		mayDie := strings.Contains(program, limiterProgSynwardXdp) || strings.HasSuffix(program, "ending")
		if !mayDie || time.Now().After(deadline) {
			return fail(ErrRefused, "%s runs another XDP program (%s); to work beside it: synward attach %s --mode tc",
				name, program, name)
		}
	}
}

// describeProgram names a program for people. A program that can no longer be opened is dying.
func describeProgram(id ebpf.ProgramID) string {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Sprintf("id %d, ending", id)
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return fmt.Sprintf("id %d, ending", id)
	}
	return fmt.Sprintf("id %d, name %s, tag %s", id, info.Name, info.Tag)
}
