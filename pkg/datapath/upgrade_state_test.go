// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What tests of upgrades may know of the inside.

// AttachByClsact attaches as on a kernel that has no tcx.
func AttachByClsact(dir, ifname string) (err error) {
	d := pinDir(dir)
	nl, err := netlink.LinkByName(ifname)
	if err != nil {
		return err
	}
	cookie, err := netnsCookie()
	if err != nil {
		return err
	}
	l, err := takeLock(d, true)
	if err != nil {
		return err
	}
	i, _, err := openOrCreate(d, l)
	if err != nil {
		l.release()
		return err
	}
	a := &attacher{Instance: i, opts: AttachOptions{PinDir: dir, Interface: ifname}, nl: nl, cookie: cookie}
	return errors.Join(a.tryHook(ModeTC, hookClsact), i.Close())
}

// UpgradeLeft says how far a killed upgrade came.
func UpgradeLeft(t *testing.T, dir string) string {
	t.Helper()
	suffix, err := pinDir(dir).unfinished()
	if err != nil {
		t.Fatal(err)
	}
	staging, err := filepath.Glob(dir + stagingMark + "*")
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case suffix != "":
		return "behind the commit"
	case len(staging) > 0:
		return "pins made"
	}
	return "nothing to see"
}

// FieldOfReason is where a reason is counted, with its first action.
func FieldOfReason(reason int) string {
	return fmt.Sprintf("by_end[%d].packets", reason*int(limiterActionACTION_COUNT))
}

// SetField writes a number into the first value of a pinned map, whatever version made it, and returns how to undo it.
func SetField(t *testing.T, dir, pin, path string, n uint64) (undo func()) {
	t.Helper()
	p, err := openPinned(pinDir(dir))
	must(t, err)
	defer p.close()
	m, err := p.need(pin)
	must(t, err)
	r, err := newReader(m.value)
	must(t, err)
	must(t, r.want(path))
	key := make([]byte, m.KeySize())
	must(t, m.NextKey(nil, key))
	before, err := m.LookupBytes(key)
	must(t, err)
	after := bytes.Clone(before)
	binary.LittleEndian.PutUint64(after[r[path].at:], n)
	putRaw(t, m.Map, key, after)
	return func() {
		p, err := openPinned(pinDir(dir))
		must(t, err)
		defer p.close()
		putRaw(t, p.maps[pin], key, before)
	}
}

// putRaw writes a value as it was read, of all CPUs where each has its own.
func putRaw(t *testing.T, m *ebpf.Map, key, raw []byte) {
	t.Helper()
	if m.Type() != ebpf.PerCPUArray {
		must(t, m.Put(key, raw))
		return
	}
	lanes, err := ebpf.PossibleCPU()
	must(t, err)
	values, memory := rawSlice(int(m.ValueSize()), lanes)
	for lane := range lanes {
		copy(memory[lane*int(m.ValueSize()):][:m.ValueSize()], raw[lane*len(raw)/lanes:])
	}
	must(t, m.Put(key, values.Interface()))
}

// SpoilLayout puts something else in the place of the description of the maps, or nothing.
func SpoilLayout(t *testing.T, dir string, raw []byte) {
	t.Helper()
	path := filepath.Join(pinDir(dir).maps(), pinLayout)
	must(t, os.Remove(path))
	if raw == nil {
		return
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(raw)), MaxEntries: 1, Contents: []ebpf.MapKV{{Key: uint32(0), Value: raw}},
	})
	must(t, err)
	defer m.Close()
	must(t, m.Pin(path))
}

// OwnLayout is what stands there else.
func OwnLayout(t *testing.T) []byte {
	t.Helper()
	raw, err := layoutBytes()
	must(t, err)
	return raw
}

// KeepText keeps a policy text that can be gone back to, whatever it says, and returns how to undo it.
func (i *Instance) KeepText(t *testing.T, generation uint16, text string) (undo func(*Instance) error) {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write([]byte(text))
	must(t, errors.Join(err, w.Close()))
	must(t, i.putPacked(generation, packed.Bytes(), "ann", 1))
	return func(i *Instance) error { return i.dropTexts(func(g uint16) bool { return g != generation }) }
}

// ForeignProgram puts somebody else's program on the link of an attachment by XDP, and returns how to undo it.
func (i *Instance) ForeignProgram(t *testing.T) (undo func()) {
	t.Helper()
	all, err := i.attached()
	must(t, err)
	l, err := link.LoadPinnedLink(i.dir.link(all[0].key), nil)
	must(t, err)
	ours, err := ebpf.LoadPinnedProgram(i.dir.prog(all[0].key), nil)
	must(t, err)
	foreign, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "somebody_else", Type: ebpf.XDP, License: "GPL", AttachType: ebpf.AttachXDP, Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	must(t, err)
	must(t, l.Update(foreign))
	return func() {
		must(t, l.Update(ours))
		for _, c := range []io.Closer{l, ours, foreign} {
			must(t, c.Close())
		}
	}
}

// age puts an instruction without effect in front of a program.
func age(p *ebpf.ProgramSpec) {
	first := p.Instructions[0]
	none := asm.Mov.Imm(asm.R0, 0).WithMetadata(first.Metadata)
	first.Metadata = asm.Metadata{}
	first = first.WithReference(none.Reference())
	p.Instructions = append(asm.Instructions{none.WithReference(""), first}, p.Instructions[1:]...)
}

// AgeConns gives the hooks of connections programs of other code.
func (i *Instance) AgeConns(t *testing.T) {
	t.Helper()
	control, err := i.connControl()
	must(t, err)
	for _, h := range connHooks() {
		spec, err := connSpec(h.program, connSettings{epoch: control.Epoch, runner: h.runner})
		must(t, err)
		age(spec.Programs[h.program])
		coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: i.maps.replacements()})
		must(t, err)
		must(t, i.putConnProgram(h, control.Epoch, coll.Programs[h.program]))
		coll.Close()
	}
}

// MustRunOwnConns wants the hooks of connections to run this version's code.
func (i *Instance) MustRunOwnConns(t *testing.T) {
	t.Helper()
	for _, h := range connHooks() {
		prog, err := i.maps.loadConns(h.program, connSettings{runner: h.runner})
		must(t, err)
		l, err := link.LoadPinnedLink(i.dir.connLink(h), nil)
		must(t, err)
		if same, err := runsCode(l, prog); err != nil || !same {
			t.Errorf("%s runs other code (%v)", h.pin, err)
		}
		must(t, errors.Join(prog.Close(), l.Close()))
	}
}

// AgePrograms gives every attachment a program of other code, as an earlier build of the same ABI would have had.
func (i *Instance) AgePrograms(t *testing.T) {
	t.Helper()
	all, err := i.attached()
	must(t, err)
	var hooks []attachment
	for _, at := range all {
		hooks = append(hooks, at.hooks()...)
	}
	for _, at := range hooks {
		f := at.record.frozen()
		f.slot, f.features = at.slot, at.record.Features
		spec, err := f.spec(at.key.hook)
		must(t, err)
		age(spec.Programs[at.key.hook.program()])
		coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: i.maps.replacements()})
		must(t, err)
		must(t, i.swapLoaded(at, coll.Programs[at.key.hook.program()]))
		coll.Close()
	}
}

// FillBlocks blocks n hosts from an address on, by batches.
func (i *Instance) FillBlocks(t *testing.T, first netip.Addr, n int) {
	t.Helper()
	m := i.list(Block)
	addr := first
	for part := range slices.Chunk(make([]struct{}, n), readBatch) {
		var keys []limiterPrefixKey
		var values []limiterListEntry
		for range part {
			p := netip.PrefixFrom(addr, addr.BitLen())
			_, key := m.place(p)
			listIndex{i.memory}.set(p)
			keys, values = append(keys, key), append(values, limiterListEntry{Prefixlen: key.Prefixlen, Listed: 1})
			addr = addr.Next()
		}
		_, err := m.hosts.BatchUpdate(keys, values, nil)
		must(t, err)
	}
}

// CountBlocks counts the hosts on the block list and their hits.
func (i *Instance) CountBlocks(t *testing.T) (entries, hits uint64) {
	t.Helper()
	must(t, eachEntry(i.maps.BlockHosts, func(_ limiterPrefixKey, e limiterListEntry) {
		entries++
		hits += e.Hits
	}))
	return entries, hits
}
