// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/synward/synward/pkg/policy"
)

// What tests of the whole package may know of its inside.

// ControlWord is the control word of a pin directory, read beside all locks: nothing is opened, so nothing
// that opening does is done.
type ControlWord struct {
	Generation, Fallback uint16
	// Deadline is in seconds of CLOCK_MONOTONIC.
	Deadline uint32
}

// ReadControlWord reads it.
func ReadControlWord(t *testing.T, dir string) ControlWord {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir(dir).maps(), pinControl), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	bytes, err := m.LookupBytes(uint32(0))
	if err != nil || len(bytes) != int(unsafe.Sizeof(sharedControl{})) {
		t.Fatalf("read control: %d bytes, %v", len(bytes), err)
	}
	l := liveOf((*sharedControl)(unsafe.Pointer(&bytes[0])).Word)
	return ControlWord{l.generation, l.fallback, l.deadline}
}

// ReadEnds is what the first interfaces of a pin directory have counted, by "reason action", read beside all
// locks and with nothing opened but the counters: a test looks often.
func ReadEnds(t *testing.T, dir string) map[string]uint64 {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir(dir).maps(), limiterMapCounters), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	out := map[string]uint64{}
	for slot := range uint32(2) {
		all, err := (&Instance{maps: &mapSet{Counters: m}}).ends(slot)
		if err != nil {
			t.Fatal(err)
		}
		for index, c := range all {
			reason, action := limiterReason(index/int(limiterActionACTION_COUNT)), limiterAction(index%int(limiterActionACTION_COUNT))
			if c.Packets > 0 && reason != limiterReasonREASON_SELF_TEST {
				out[reasonNames[reason]+" "+actionNames[action]] += c.Packets
			}
		}
	}
	return out
}

// Monotonic is the data path's clock, and Tick how far behind it programs may be.
func Monotonic() time.Duration { return time.Duration(monotonicNow()) }

// Tick is how far the coarse clock moves at a time.
func Tick() time.Duration { return clockTick() }

// Leftovers names all that only policies which are not in force need: list entries with bits of their slots,
// sets, local addresses, heads, and pins of programs that were to be next.
func Leftovers(i *Instance) (found []string, err error) {
	l := i.live()
	used := map[uint32]bool{slotOfGeneration(l.generation): true}
	if l.deadline != 0 {
		used[slotOfGeneration(l.fallback)] = true
	}
	note := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for slot := range uint32(limiterAbiPOLICY_SLOTS) {
		if !used[slot] && i.control.Policies[slot] != (limiterPolicy{}) {
			note("slot %d: %+v", slot, i.control.Policies[slot])
		}
	}
	err = errors.Join(
		eachScope(i.maps.Sets, func(scope uint32) { noteUnless(used[scope], note, "set", scope) }),
		eachScope(i.maps.Locals, func(scope uint32) { noteUnless(used[scope>>16], note, "local address", scope>>16) }))
	for _, list := range []List{Allow, Block} {
		m := i.list(list)
		for _, from := range []*ebpf.Map{m.hosts, m.prefixes} {
			err = errors.Join(err, eachEntry(from, func(key limiterPrefixKey, e limiterListEntry) {
				for slot := range uint32(8) {
					noteUnless(used[slot] || e.Policies>>slot&1 == 0, note, fmt.Sprintf("%s entry %+v", list, key), slot)
				}
				noteUnless(!nobodys(e), note, fmt.Sprintf("%s entry %+v of nobody", list, key), 0)
			}))
		}
	}
	next, globErr := filepath.Glob(filepath.Join(i.dir.progs(), "*-next"))
	return append(found, next...), errors.Join(err, globErr)
}

func noteUnless(ok bool, note func(string, ...any), what string, slot uint32) {
	if !ok {
		note("%s of slot %d", what, slot)
	}
}

func eachScope(m *ebpf.Map, visit func(scope uint32)) error {
	var key limiterScopedKey
	var value uint64
	iter := m.Iterate()
	for iter.Next(&key, &value) {
		visit(key.Scope)
	}
	return iter.Err()
}

// What a policy may need of its program.
const (
	NeedsPorts   = uint32(limiterFeatureFEATURE_PORTS)
	NeedsLocal   = uint32(limiterFeatureFEATURE_LOCAL)
	NeedsUDP     = uint32(limiterFeatureFEATURE_UDP)
	NeedsSets    = uint32(limiterFeatureFEATURE_SETS)
	NeedsMany    = uint32(limiterFeatureFEATURE_MANY)
	NeedsVolume  = uint32(limiterFeatureFEATURE_VOLUME)
	NeedsReset   = uint32(limiterFeatureFEATURE_RESET)
	NeedsNothing = uint32(0)
)

// RunningProgram is what an attachment's hook runs.
type RunningProgram struct {
	ID, Pinned ebpf.ProgramID
	// Features are those that are frozen into it, Recorded those that the interface's record tells.
	Features, Recorded uint32
	// Bytes is how much code it has.
	Bytes int
}

// attachmentOf finds the attachment of an interface.
func (i *Instance) attachmentOf(t *testing.T, ifname string) attachment {
	t.Helper()
	all, err := i.attached()
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range all {
		if at.record.name() == ifname {
			return at
		}
	}
	t.Fatalf("attached: %+v, want %s among them", all, ifname)
	return attachment{}
}

// RunningProgram looks at an attachment: what its hook holds, not what is pinned.
func (i *Instance) RunningProgram(t *testing.T, ifname string) RunningProgram {
	t.Helper()
	at := i.attachmentOf(t, ifname)
	id, err := at.hookProgram()
	if err != nil {
		t.Fatal(err)
	}
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	pinned, err := at.programID()
	if err != nil {
		t.Fatal(err)
	}
	out := RunningProgram{ID: id, Pinned: pinned, Recorded: at.record.Features}
	out.Features, out.Bytes = frozenInto(t, prog)
	return out
}

// frozenInto reads the features out of the section of constants that the program was loaded with.
func frozenInto(t *testing.T, prog *ebpf.Program) (features uint32, size int) {
	t.Helper()
	info, err := prog.Info()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := loadLimiter()
	if err != nil {
		t.Fatal(err)
	}
	size, err = info.TranslatedSize()
	ids, ok := info.MapIDs()
	if err != nil || !ok {
		t.Fatalf("read program: %v, %v", ids, err)
	}
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			t.Fatal(err)
		}
		mapInfo, infoErr := m.Info()
		bytes, lookupErr := m.LookupBytes(uint32(0))
		_ = m.Close()
		if infoErr == nil && strings.HasSuffix(mapInfo.Name, ".rodata") && lookupErr == nil {
			v := spec.Variables[limiterVarFeatures]
			return *(*uint32)(unsafe.Pointer(&bytes[v.Offset])), size
		}
	}
	t.Fatalf("a program without constants: %v", info)
	return 0, 0
}

// SwapHalfway does what a command has done that is killed after it has put another program on the hook and
// before that is pinned in the place of the old one.
func (i *Instance) SwapHalfway(t *testing.T, ifname string, features uint32) {
	t.Helper()
	at := i.attachmentOf(t, ifname)
	f := at.record.frozen()
	f.slot, f.features = at.slot, features
	prog, err := i.maps.loadProgram(at.key.hook, f)
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	if err := errors.Join(prog.Pin(i.dir.nextProgram(at.key)), at.updateHook(prog)); err != nil {
		t.Fatal(err)
	}
}

// LeaveNextProgram does what one has done that is killed before that.
func (i *Instance) LeaveNextProgram(t *testing.T, ifname string) {
	t.Helper()
	at := i.attachmentOf(t, ifname)
	f := at.record.frozen()
	f.slot = at.slot
	prog, err := i.maps.loadProgram(at.key.hook, f)
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	if err := prog.Pin(i.dir.nextProgram(at.key)); err != nil {
		t.Fatal(err)
	}
}

// WriteHalfway does what an Apply has done that is killed right before its flip.
func (i *Instance) WriteHalfway(t *testing.T, p *policy.Policy) {
	t.Helper()
	now := monotonicNow()
	before := i.live()
	prior, err := i.predecessor(before.inForce(now))
	if err != nil {
		t.Fatal(err)
	}
	c, err := compile(p, prior)
	if err == nil {
		err = i.write(c, i.nextGeneration(now), "killed")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// FillTexts leaves no room to keep a policy in until free is called.
func (i *Instance) FillTexts(t *testing.T) (free func()) {
	t.Helper()
	const filler = 40_000 // a generation of long ago
	m, inForce := i.maps.PolicyTexts, i.live().generation
	if err := i.dropTexts(func(g uint16) bool { return g == inForce }); err != nil { // what may make room
		t.Fatal(err)
	}
	for n := range m.MaxEntries() {
		err := m.Put(limiterPolicyTextKey{Generation: filler, Piece: n + 1}, limiterPolicyPiece{})
		if listIsFull(err) {
			return func() {
				if err := i.dropTexts(func(g uint16) bool { return g != filler }); err != nil {
					t.Error(err)
				}
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the texts of policies are never full")
	return nil
}
