// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

// fuzzHook is a program as the fuzz runs it: which, under which slot of the counters, and how it says
// pass and drop.
type fuzzHook struct {
	name       string
	hook       hook
	link       bool
	slot       uint32
	pass, drop uint32
}

var (
	fuzzXDP  = fuzzHook{"xdp", hookXDP, true, 0, 2, 1}
	fuzzTC   = fuzzHook{"tc", hookTCX, true, 1, 0xffffffff, 2}
	fuzzBare = fuzzHook{"tc without link header", hookTCX, false, 2, 0xffffffff, 2}
)

// The policies of the lab, by slot: bit 0 is observe, bit 1 strict parsing. All have the same limit, one
// connection a day, so that time plays no part.
const (
	fuzzObserve = 1
	fuzzStrict  = 2
)

// fuzzLab is the real programs on maps that Go can read without a system call: counters are an ordinary
// array in memory here, which to the same byte code are what the per-CPU ones are on one CPU.
type fuzzLab struct {
	*Instance
	programs map[fuzzProgram]*ebpf.Program
	counters []limiterCounts // by slot
	meters   []uint64        // the one bucket that the limit uses
	limit    limiterLimit
	service  uint32 // its id
	splits   bool   // the kernel runs an XDP program on a frame in several buffers of any size
	out      []byte
}

// fuzzProgram is a program by its hook's name. general: it has every feature, not only what these
// policies need.
type fuzzProgram struct {
	name    string
	general bool
}

var fuzzHooks = []fuzzHook{fuzzXDP, fuzzTC, fuzzBare}

func newFuzzLab(t testing.TB) *fuzzLab {
	t.Helper()
	testenv.RequireRoot(t)
	l := &fuzzLab{programs: map[fuzzProgram]*ebpf.Program{}, out: make([]byte, 1<<16)}
	m, err := fuzzMaps()
	if err != nil {
		t.Fatal(err)
	}
	if l.Instance, err = newInstance("", nil, m); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.release)
	if err := l.fill(t); err != nil {
		t.Fatal(err)
	}
	for _, h := range fuzzHooks {
		for general, features := range map[bool]uint32{false: l.control.Policies[0].Features, true: uint32(limiterFeatureFEATURE_ALL)} {
			prog, err := l.load(h, features)
			if err != nil {
				t.Fatalf("load %s: %v", h.name, err)
			}
			l.programs[fuzzProgram{h.name, general}] = prog
			t.Cleanup(func() { prog.Close() })
		}
	}
	l.probeSplits(t)
	return l
}

// fuzzMaps are an instance's maps, with a ledger that is quickly seen to be empty.
func fuzzMaps() (*mapSet, error) {
	spec, err := loadLimiter()
	if err != nil {
		return nil, err
	}
	shrinkMaps(spec)
	m := &mapSet{}
	for name, field := range m.byName() {
		if *field, err = ebpf.NewMap(mapSpec(spec, name)); err != nil {
			m.close()
			return nil, fmt.Errorf("create map %s: %w", name, err)
		}
	}
	return m, nil
}

func shrinkMaps(spec *ebpf.CollectionSpec) { spec.Maps[limiterMapSources].MaxEntries = 256 }

func shrinkCounters(spec *ebpf.CollectionSpec) {
	counters := spec.Maps[limiterMapCounters]
	counters.Type, counters.MaxEntries = ebpf.Array, uint32(len(fuzzHooks))
	counters.Flags |= unix.BPF_F_MMAPABLE
}

// mapCounters puts counters in place that can be mapped, once nothing is applied any more.
func (l *fuzzLab) mapCounters() error {
	spec, err := loadLimiter()
	if err != nil {
		return err
	}
	shrinkCounters(spec)
	counters, err := ebpf.NewMap(mapSpec(spec, limiterMapCounters))
	if err != nil {
		return fmt.Errorf("create counters: %w", err)
	}
	defer l.maps.Counters.Close()
	l.maps.Counters = counters
	return nil
}

func (l *fuzzLab) load(h fuzzHook, features uint32) (*ebpf.Program, error) {
	spec, err := frozen{slot: h.slot, linkHeader: h.link, features: features}.spec(h.hook)
	if err != nil {
		return nil, err
	}
	shrinkMaps(spec)
	shrinkCounters(spec)
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: l.maps.replacements()})
	if err != nil {
		return nil, loadError(err)
	}
	defer coll.Close()
	return coll.DetachProgram(h.hook.program()), nil
}

// fill applies the policy in each mode and puts what it came to into the slot of the mode, and sets every
// bit of the list index but those that say that there are lists.
func (l *fuzzLab) fill(t testing.TB) error {
	if err := l.begin(); err != nil {
		return err
	}
	type slot struct {
		head    limiterPolicy
		limit   limiterLimit
		service limiterService
	}
	var modes [limiterAbiPOLICY_SLOTS]slot
	for mode := range modes {
		p := policy.Default(&policy.NewLimit{Rate: policy.Rate{Count: 1, Period: 24 * time.Hour}, Burst: 1})
		p.OnTableFull, p.StrictParsing = policy.TableFullDrop, mode&fuzzStrict != 0
		if mode&fuzzObserve != 0 {
			p.Mode = policy.Observe
		}
		if err := l.Apply(ApplyOptions{Policy: p, By: "a test"}); err != nil {
			return err
		}
		at := slotOfGeneration(l.live().generation)
		modes[mode] = slot{
			l.control.Policies[at], l.tables.Limits[at*uint32(limiterAbiMAX_LIMITS)], l.tables.Services[at*uint32(limiterAbiMAX_SERVICES)],
		}
		l.tables.Ports[at] = limiterPortTable{}
	}
	for port := range int(limiterListenLISTEN_PORTS) {
		l.tables.Ports[0].Listen[port] = 1
	}
	for at, s := range modes {
		s.limit.BucketMask = 0
		l.control.Policies[at] = s.head
		l.tables.Limits[at*int(limiterAbiMAX_LIMITS)] = s.limit
		l.tables.Services[at*int(limiterAbiMAX_SERVICES)] = s.service
		l.tables.Ports[at] = l.tables.Ports[0]
		l.limit, l.service = s.limit, s.service.Id
	}
	l.meters = slots(l.limit.region().of(l.tables))
	clear(l.meters)
	if err := l.mapCounters(); err != nil {
		return err
	}
	counters, err := mapWords(l.maps.Counters)
	if err != nil {
		return err
	}
	t.Cleanup(func() { counters.close() })
	l.counters = unsafe.Slice((*limiterCounts)(unsafe.Pointer(&counters.all[0])), len(fuzzHooks))
	for _, table := range [][]uint64{l.tables.Index.Hosts[:], l.tables.Index.Entries[:]} {
		for at := range table {
			table[at] = ^uint64(0)
		}
	}
	return nil
}

// probeSplits: Linux 6.18, and stable kernels to which that went back, run an XDP program on a frame of
// which only a chosen part lies in the first buffer. Others refuse the choice or do not heed it.
func (l *fuzzLab) probeSplits(t testing.TB) {
	t.Helper()
	const linear = 20
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "sees_a_split", Type: ebpf.XDP, License: "GPL", Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, 4, asm.Word), // data_end
			asm.LoadMem(asm.R3, asm.R1, 0, asm.Word), // data
			asm.Mov.Imm(asm.R0, 1),
			asm.Add.Imm(asm.R3, linear+1),
			asm.JGT.Reg(asm.R3, asm.R2, "out"),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return().WithSymbol("out"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	seen, err := prog.Run(splitAt(make([]byte, 64), linear))
	if err != nil && !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	if l.splits = err == nil && seen == 1; l.splits {
		return
	}
	if err := requireKernelBelow(6, 18); err != nil {
		t.Fatalf("no frames in several buffers: %v", err)
	}
	t.Log("frames in one buffer only: this kernel is older than 6.18")
}

// splitAt gives a frame to an XDP program with linear bytes in the first buffer; 0 is all.
func splitAt(frame []byte, linear int) *ebpf.RunOptions {
	opts := &ebpf.RunOptions{Data: frame}
	if linear > 0 {
		context := make([]byte, 24) // struct xdp_md
		binary.NativeEndian.PutUint32(context[4:], uint32(linear))
		opts.Context = context
	}
	return opts
}

func requireKernelBelow(major, minor int) error {
	var name unix.Utsname
	var is [2]int
	if err := unix.Uname(&name); err != nil {
		return err
	}
	release := unix.ByteSliceToString(name.Release[:])
	if _, err := fmt.Sscanf(release, "%d.%d", &is[0], &is[1]); err != nil {
		return fmt.Errorf("read release %s: %w", release, err)
	}
	if is[0] > major || is[0] == major && is[1] >= minor {
		return fmt.Errorf("this is Linux %s, which should have them", release)
	}
	return nil
}

// fuzzEnd is how a run of a program ended.
type fuzzEnd struct {
	reason limiterReason
	action limiterAction
}

func (e fuzzEnd) String() string { return reasonNames[e.reason] + "/" + actionNames[e.action] }

func (e fuzzEnd) verdict(h fuzzHook) uint32 {
	if e.action == limiterActionACTION_DROP {
		return h.drop
	}
	return h.pass
}

// run runs a program on a frame of which linear bytes lie in the first buffer; 0 is all. It returns the
// verdict; the bytes that came out are in l.out.
func (l *fuzzLab) run(p fuzzProgram, frame []byte, linear int) (uint32, error) {
	opts := splitAt(frame, linear)
	opts.DataOut = l.out[:cap(l.out)]
	verdict, err := l.programs[p].Run(opts)
	l.out = opts.DataOut
	return verdict, err
}

// moved takes the one counter that a run has moved, by one packet of this size, and sets it back.
func (l *fuzzLab) moved(h fuzzHook, size int) (e fuzzEnd, err error) {
	found := 0
	var by limiterCounter
	for slot := range l.counters {
		for in, c := range l.counters[slot].ByEnd {
			if c == (limiterCounter{}) {
				continue
			}
			if found++; uint32(slot) != h.slot {
				found = len(l.counters[slot].ByEnd)
			}
			e, by = fuzzEnd{limiterReason(in / int(limiterActionACTION_COUNT)), limiterAction(in % int(limiterActionACTION_COUNT))}, c
		}
	}
	clear(l.counters)
	switch {
	case found != 1:
		return fuzzEnd{}, fmt.Errorf("%d counters moved, the last %v, want one of slot %d", found, e, h.slot)
	case by != limiterCounter{Packets: 1, Bytes: uint64(size)}:
		return e, fmt.Errorf("%v counted %d packets of %d bytes, want 1 of %d", e, by.Packets, by.Bytes, size)
	}
	return e, nil
}
