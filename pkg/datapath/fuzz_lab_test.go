// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

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

// fuzzModes are the policies of the lab, by slot: bit 0 is observe, bit 1 strict parsing. All have the
// same limit, one connection a day, so that time plays no part.
const (
	fuzzObserve = 1
	fuzzStrict  = 2
)

// fuzzLab is the real programs on maps that Go can read without a system call: counters and budget are
// ordinary arrays in memory here, which to the same byte code are what the per-CPU ones are on one CPU.
type fuzzLab struct {
	maps     *mapSet
	programs map[string]*ebpf.Program
	counters *words
	budget   *words
	control  *words
	index    *words
	meters   []uint64 // the one bucket that the limit uses
	limit    limiterLimit
	splits   bool // the kernel runs an XDP program on a frame in several buffers of any size
	out      []byte
}

func newFuzzLab(t testing.TB) *fuzzLab {
	t.Helper()
	testenv.RequireRoot(t)
	l := &fuzzLab{maps: &mapSet{}, programs: map[string]*ebpf.Program{}, out: make([]byte, 1<<16)}
	t.Cleanup(l.maps.close)
	for _, h := range []fuzzHook{fuzzXDP, fuzzTC, fuzzBare} {
		prog, err := l.load(h)
		if err != nil {
			t.Fatalf("load %s: %v", h.name, err)
		}
		l.programs[h.name] = prog
		t.Cleanup(func() { prog.Close() })
	}
	if err := l.fill(t); err != nil {
		t.Fatal(err)
	}
	l.probeSplits(t)
	return l
}

// load makes the maps that are not there yet.
func (l *fuzzLab) load(h fuzzHook) (*ebpf.Program, error) {
	spec, err := frozen{slot: h.slot, linkHeader: h.link}.spec(h.hook)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{limiterMapCounters, limiterMapLedgerBudget, limiterMapPolicies} {
		spec.Maps[name].Type = ebpf.Array
		spec.Maps[name].Flags |= unix.BPF_F_MMAPABLE
	}
	spec.Maps[limiterMapCounters].MaxEntries = 3 * countersPerInterface
	spec.Maps[limiterMapSources].MaxEntries = 256 // so that it is quickly seen to be empty
	opts := ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{}}
	for name, field := range l.maps.byName() {
		if *field == nil {
			if *field, err = ebpf.NewMap(spec.Maps[name]); err != nil {
				return nil, fmt.Errorf("create map %s: %w", name, err)
			}
		}
		opts.MapReplacements[name] = *field
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, opts)
	if err != nil {
		return nil, loadError(err)
	}
	defer coll.Close()
	return coll.DetachProgram(h.hook.program()), nil
}

// fill writes the policies and sets every bit of the list index but those that say that there are lists.
func (l *fuzzLab) fill(t testing.TB) error {
	var err error
	if l.limit, err = compileLimit(policy.NewLimit{Rate: policy.Rate{Count: 1, Period: 24 * time.Hour}, Burst: 1}); err != nil {
		return err
	}
	if err := freshKey(&l.limit.Key); err != nil {
		return err
	}
	setMasks(&l.limit)
	l.limit.BucketMask = 0
	for mode := range uint32(limiterAbiPOLICY_SLOTS) {
		p := limiterPolicy{Mode: mode & fuzzObserve, StrictParsing: mode & fuzzStrict, Limit: l.limit}
		p.OnTableFull = uint32(limiterOnTableFullTABLE_FULL_DROP)
		if err := l.maps.Policies.Put(mode, p); err != nil {
			return err
		}
	}
	var meters *words
	for _, m := range []struct {
		to   **words
		from *ebpf.Map
	}{
		{&l.counters, l.maps.Counters}, {&l.budget, l.maps.LedgerBudget}, {&l.control, l.maps.Control},
		{&l.index, l.maps.ListIndex}, {&meters, l.maps.Meters},
	} {
		w, err := mapWords(m.from)
		if err != nil {
			return err
		}
		t.Cleanup(func() { w.close() })
		*m.to = w
	}
	l.meters = region(meters, l.limit)
	for at := range limiterAbiLIST_INDEX_FAMILIES {
		l.index.all[at] = ^uint64(0)
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
func (l *fuzzLab) run(h fuzzHook, frame []byte, linear int) (uint32, error) {
	opts := splitAt(frame, linear)
	opts.DataOut = l.out[:cap(l.out)]
	verdict, err := l.programs[h.name].Run(opts)
	l.out = opts.DataOut
	return verdict, err
}

// moved takes the one counter that a run has moved, by one packet of this size, and sets it back.
func (l *fuzzLab) moved(h fuzzHook, size int) (fuzzEnd, error) {
	var found []uint32
	for index := range uint32(len(l.counters.all) / 2) {
		if l.counters.all[2*index]|l.counters.all[2*index+1] != 0 {
			found = append(found, index)
		}
	}
	defer clear(l.counters.all)
	if len(found) != 1 || found[0]/countersPerInterface != h.slot {
		return fuzzEnd{}, fmt.Errorf("counters %v moved, want one of slot %d", found, h.slot)
	}
	packets, bytes := l.counters.all[2*found[0]], l.counters.all[2*found[0]+1]
	in := found[0] % countersPerInterface
	e := fuzzEnd{limiterReason(in / uint32(limiterActionACTION_COUNT)), limiterAction(in % uint32(limiterActionACTION_COUNT))}
	if packets != 1 || bytes != uint64(size) {
		return e, fmt.Errorf("%v counted %d packets of %d bytes, want 1 of %d", e, packets, bytes, size)
	}
	return e, nil
}
