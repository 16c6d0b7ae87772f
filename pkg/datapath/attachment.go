// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What kernels answer for a mode that an interface cannot do.
var (
	errNotSupported    = unix.EOPNOTSUPP
	errInvalidArgument = unix.EINVAL
	errOutOfRange      = unix.ERANGE
)

// interfaceRecord is what attach wrote down about an interface.
type interfaceRecord struct{ limiterInterface }

func (r interfaceRecord) name() string {
	name, _, _ := bytes.Cut(r.Name[:], []byte{0})
	return string(name)
}

// frozen is what of a program's settings its interface decides.
func (r interfaceRecord) frozen() frozen {
	return frozen{
		linkHeader: r.Flags&uint32(limiterInterfaceFlagINTERFACE_LINK_HEADER) != 0,
		silent:     r.Flags&uint32(limiterInterfaceFlagINTERFACE_SILENT) != 0,
	}
}

// attachment is one pinned attachment with its record.
type attachment struct {
	key    pinKey
	slot   uint32
	record interfaceRecord
	dir    pinDir
}

// state is what the kernel says of an attachment now.
type state struct {
	live bool   // the hook holds our program
	why  string // what is wrong otherwise
}

// attached lists the attachments with their records, sorted by the names of their pins.
func (i *Instance) attached() ([]attachment, error) {
	keys, err := i.dir.attachments()
	if err != nil {
		return nil, err
	}
	records, err := i.records()
	if err != nil {
		return nil, err
	}
	var all []attachment
	for _, k := range keys {
		at := attachment{key: k, slot: uint32(limiterAbiMAX_INTERFACES), dir: i.dir}
		for slot, r := range records {
			if r.NetnsCookie == k.cookie && int(r.Ifindex) == k.ifindex {
				at.slot, at.record = uint32(slot), r
			}
		}
		all = append(all, at)
	}
	return all, nil
}

func (i *Instance) records() ([]interfaceRecord, error) {
	records := make([]interfaceRecord, limiterAbiMAX_INTERFACES)
	for slot := range records {
		if err := i.maps.Interfaces.Lookup(uint32(slot), &records[slot].limiterInterface); err != nil {
			return nil, fmt.Errorf("read interface record: %w", err)
		}
	}
	return records, nil
}

// clearOrphans forgets the records that no attachment uses: what a killed attach wrote.
func (i *Instance) clearOrphans() error {
	all, err := i.attached()
	if err != nil {
		return err
	}
	used := map[uint32]bool{}
	for _, at := range all {
		used[at.slot] = true
	}
	for slot := range uint32(limiterAbiMAX_INTERFACES) {
		if used[slot] {
			continue
		}
		if err := i.maps.Interfaces.Put(slot, limiterInterface{}); err != nil {
			return fmt.Errorf("clear interface record: %w", err)
		}
	}
	return nil
}

// freeSlot finds a slot of the counters that no attachment uses.
func (i *Instance) freeSlot() (uint32, error) {
	all, err := i.attached()
	if err != nil {
		return 0, err
	}
	used := map[uint32]bool{}
	for _, at := range all {
		used[at.slot] = true
	}
	for slot := range uint32(limiterAbiMAX_INTERFACES) {
		if !used[slot] {
			return slot, nil
		}
	}
	return 0, fail(ErrFull, "%d interfaces are attached, which is the most; detach one", limiterAbiMAX_INTERFACES)
}

// programIDs are the programs of all attachments.
func (i *Instance) programIDs() (map[ebpf.ProgramID]bool, error) {
	all, err := i.attached()
	if err != nil {
		return nil, err
	}
	ids := map[ebpf.ProgramID]bool{}
	for _, at := range all {
		for _, one := range at.hooks() {
			if id, err := one.programID(); err == nil {
				ids[id] = true
			}
		}
	}
	return ids, nil
}

func (at attachment) programID() (ebpf.ProgramID, error) { return pinnedProgramID(at.dir.prog(at.key)) }

// isOurs: also the program that is about to take the place of the one pinned, or just did.
func (at attachment) isOurs(id ebpf.ProgramID) (bool, error) {
	own, err := at.programID()
	if err != nil || own == id {
		return own == id, err
	}
	next, err := pinnedProgramID(at.dir.nextProgram(at.key))
	return err == nil && next == id, nil
}

func pinnedProgramID(path string) (ebpf.ProgramID, error) {
	prog, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return 0, fmt.Errorf("open program: %w", err)
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return 0, fmt.Errorf("read program: %w", err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("read program: the kernel gave no id")
	}
	return id, nil
}

// inspect asks the kernel whether the hook still holds our program. nl is the interface as it is now
// in its own namespace, nil if it is gone.
func (at attachment) inspect(nl netlink.Link) state {
	if nl == nil {
		return state{why: "the interface is gone; attach again when it is back, or detach"}
	}
	if at.key.hook.filter() {
		return at.inspectFilter(nl)
	}
	l, err := link.LoadPinnedLink(at.dir.link(at.key), nil)
	if err != nil {
		return state{why: fmt.Sprintf("open link: %v; attach again", err)}
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return state{why: fmt.Sprintf("read link: %v; attach again", err)}
	}
	ours, err := at.isOurs(info.Program)
	switch {
	case err != nil:
		return state{why: err.Error()}
	case linkIfindex(info) == 0:
		return state{why: "the interface was deleted under its link; attach again"}
	case !ours:
		return state{why: fmt.Sprintf("the link runs another program (%s); detach and attach again", describeProgram(info.Program))}
	}
	return state{live: true}
}

func (at attachment) inspectFilter(nl netlink.Link) state {
	f, err := findFilter(nl, at.key.hook)
	if err != nil {
		return state{why: err.Error()}
	}
	ours := false
	if f != nil {
		ours, err = at.isOurs(ebpf.ProgramID(f.Id))
	}
	switch {
	case err != nil:
		return state{why: err.Error()}
	case !ours:
		return state{why: "our filter is gone from clsact; attach again"}
	}
	return state{live: true}
}

func linkIfindex(info *link.Info) uint32 {
	if x := info.XDP(); x != nil {
		return x.Ifindex
	}
	if x := info.TCX(); x != nil {
		return x.Ifindex
	}
	return 0
}

// drop takes one attachment away: its hooks first, each with its pins, the first last, for that one stands for the
// attachment; then its record. An interface that is gone has taken its hooks with it.
func (i *Instance) drop(at attachment) error {
	for _, one := range slices.Backward(at.hooks()) {
		if err := i.dropHook(one); err != nil {
			return err
		}
	}
	return i.clearRecordOf(at)
}

// dropHook takes a program off its hook and removes its pins.
func (i *Instance) dropHook(at attachment) error {
	if at.key.hook.filter() {
		if nl := at.device(); nl != nil {
			if err := at.removeFilter(nl); err != nil {
				return err
			}
		}
	} else if err := i.dir.removeLink(at.key); err != nil {
		return err
	}
	return i.forgetHook(at)
}

// forgetAttachment removes the pins and the record of an attachment whose hooks no longer run our programs.
func (i *Instance) forgetAttachment(at attachment) error {
	for _, one := range slices.Backward(at.hooks()) {
		if err := i.forgetHook(one); err != nil {
			return err
		}
	}
	return i.clearRecordOf(at)
}

func (i *Instance) forgetHook(at attachment) error {
	if err := os.Remove(i.dir.link(at.key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove link: %w", err)
	}
	if err := os.Remove(i.dir.nextProgram(at.key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove program: %w", err)
	}
	if err := os.Remove(i.dir.prog(at.key)); err != nil {
		return fmt.Errorf("remove program: %w", err)
	}
	return nil
}

func (i *Instance) clearRecordOf(at attachment) error {
	if at.slot < uint32(limiterAbiMAX_INTERFACES) {
		if err := i.maps.Interfaces.Put(at.slot, limiterInterface{}); err != nil {
			return fmt.Errorf("clear interface record: %w", err)
		}
	}
	return nil
}

// removeLink unpins a link and takes it off its hook before it returns: what the kernel does by itself
// once nothing holds a link comes a moment later. Killed in between, the link ends with the process.
func (d pinDir) removeLink(k pinKey) error {
	l, err := link.LoadPinnedLink(d.link(k), nil)
	if err != nil {
		return fmt.Errorf("open link: %w", err)
	}
	defer l.Close()
	if err := l.Unpin(); err != nil {
		return fmt.Errorf("remove link: %w", err)
	}
	if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		return fmt.Errorf("take link off: %w", err)
	}
	return nil
}

// device is the attachment's interface, for a caller inside its namespace; nil if it is gone.
func (at attachment) device() netlink.Link {
	nl, err := netlink.LinkByIndex(at.key.ifindex)
	if err != nil {
		return nil
	}
	return nl
}
