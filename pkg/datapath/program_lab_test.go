// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	stdmaps "maps"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

// What the programs return to their hooks (linux/bpf.h, linux/pkt_cls.h).
const (
	xdpDrop, xdpPass = 1, 2
	tcUnspec, tcShot = 0xffffffff, 2
)

// bothHooks are the two programs: TCX and clsact run the same one.
var bothHooks = []hook{hookXDP, hookTCX}

// programLab is the real programs on real maps, with nothing attached and nothing pinned. A program
// counts under a slot of its own, so that one which counts elsewhere is seen.
type programLab struct {
	*Instance
	t        *testing.T
	programs map[hook]*ebpf.Program
	meters   *words
	// expected is what every counter must hold by all that expect wanted so far, zeros left out.
	expected map[uint32]Counter
	added    map[List][]netip.Prefix
}

func newProgramLab(t *testing.T, f frozen) *programLab {
	t.Helper()
	testenv.RequireRoot(t)
	m, err := createMaps()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	l := &programLab{
		Instance: &Instance{maps: m}, t: t, programs: map[hook]*ebpf.Program{},
		expected: map[uint32]Counter{}, added: map[List][]netip.Prefix{},
	}
	for _, h := range bothHooks {
		f.slot = slotOf(h)
		if l.programs[h], err = m.loadProgram(h, f); err != nil {
			t.Fatalf("load %s: %v", h, err)
		}
		t.Cleanup(func() { l.programs[h].Close() })
	}
	if l.meters, err = mapWords(m.Meters); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.meters.close() })
	l.rules(nil)
	return l
}

func slotOf(h hook) uint32 {
	if h == hookXDP {
		return 5
	}
	return uint32(limiterAbiMAX_INTERFACES) - 1
}

// onceADay is a limit under which time plays no part in a test: burst connections, and no more.
func onceADay(burst uint64) *policy.NewLimit {
	return &policy.NewLimit{Rate: policy.Rate{Count: 1, Period: 24 * time.Hour}, Burst: burst}
}

// rules is a policy that enforces l, with changes made.
func (l *programLab) rules(limit *policy.NewLimit, changes ...func(p *limiterPolicy)) {
	l.t.Helper()
	p := limiterPolicy{
		Mode: uint32(limiterModeMODE_ENFORCE), OnTableFull: uint32(limiterOnTableFullTABLE_FULL_DROP),
	}
	if limit != nil {
		compiled, err := compileLimit(*limit)
		if err != nil {
			l.t.Fatal(err)
		}
		p.Limit = compiled
		p.Limit.Key = [limiterHashKeyHASH_KEYS]uint64{0x0706050403020100, 0x0f0e0d0c0b0a0908, 0xa0761d6478bd642f, 0xe7037ed1a0b428db, 0x8ebc6af09c88c6e3}
	}
	setMasks(&p.Limit)
	for _, change := range changes {
		change(&p)
	}
	const slot = uint32(2)
	must(l.t, l.maps.Policies.Put(slot, p))
	must(l.t, l.maps.Control.Put(uint32(0), limiterControl{Active: slot, Generation: 1}))
}

func observing(p *limiterPolicy) { p.Mode = uint32(limiterModeMODE_OBSERVE) }
func strictly(p *limiterPolicy)  { p.StrictParsing = 1 }
func failOpen(p *limiterPolicy)  { p.OnTableFull = uint32(limiterOnTableFullTABLE_FULL_PASS) }

// add puts entries on a list until clearLists takes them off; the list index keeps its bits.
func (l *programLab) add(list List, entries ...Entry) {
	l.t.Helper()
	must(l.t, l.Add(list, entries))
	for _, e := range entries {
		l.added[list] = append(l.added[list], e.Prefix)
	}
}

func (l *programLab) clearLists() {
	l.t.Helper()
	for list, prefixes := range l.added {
		_, err := l.Remove(list, prefixes)
		must(l.t, err)
	}
	clear(l.added)
}

// ledgerLine is what the ledger may hold of a source, but for its times.
type ledgerLine struct {
	admitted, refused uint64
	sampled           bool
}

// ledger is all that the ledger holds.
func (l *programLab) ledger() map[netip.Prefix]ledgerLine {
	l.t.Helper()
	all, err := l.Sources()
	must(l.t, err)
	out := map[netip.Prefix]ledgerLine{}
	for _, s := range all {
		out[s.Prefix] = ledgerLine{s.Admitted, s.Refused, s.Sampled}
	}
	return out
}

// take reads one line of the ledger and strikes it out; a source that it does not hold is zero.
func (l *programLab) take(source netip.Prefix) ledgerLine {
	l.t.Helper()
	key := limiterSourceKey{Addr: dataAddr(source.Addr())}
	var s limiterSource
	err := l.maps.Sources.Lookup(key, &s)
	if isMissing(err) {
		return ledgerLine{}
	}
	must(l.t, err)
	must(l.t, l.maps.Sources.Delete(key))
	return ledgerLine{s.Admitted, s.Refused, s.Flags&uint32(limiterSourceFlagSOURCE_SAMPLED) != 0}
}

// countersNow reads every counter of every interface slot, summed over CPUs; zeros are left out.
func (l *programLab) countersNow() map[uint32]Counter {
	l.t.Helper()
	cpus := ebpf.MustPossibleCPU()
	size := int(l.maps.Counters.MaxEntries())
	keys, values := make([]uint32, size), make([]limiterCounter, size*cpus)
	var cursor ebpf.MapBatchCursor
	n, err := l.maps.Counters.BatchLookup(&cursor, keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) || n != size {
		l.t.Fatalf("read %d counters of %d: %v", n, size, err)
	}
	out := map[uint32]Counter{}
	for at, c := range values {
		if c != (limiterCounter{}) {
			sum := out[keys[at/cpus]]
			out[keys[at/cpus]] = Counter{sum.Packets + c.Packets, sum.Bytes + c.Bytes}
		}
	}
	return out
}

// judgement is what one run of a program returned.
type judgement struct {
	verdict uint32
	out     []byte
}

// run runs a hook's program on a frame. context is a struct __sk_buff or nil.
func (l *programLab) run(h hook, frame, context []byte) judgement {
	l.t.Helper()
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	if context != nil {
		opts.Context = context
	}
	for {
		verdict, err := l.programs[h].Run(&opts)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			l.t.Fatalf("run %s on %d bytes %x: %v", h, len(frame), frame, err)
		}
		return judgement{verdict: verdict, out: opts.DataOut}
	}
}

// freshBudget lets the ledger take the next packet whole: what it does past its budget is another test.
func (l *programLab) freshBudget() {
	l.t.Helper()
	must(l.t, l.maps.LedgerBudget.Put(uint32(0), make([]limiterLedgerBudget, ebpf.MustPossibleCPU())))
}

// segmentsContext is a struct __sk_buff that stands for n packets on the wire.
func segmentsContext(n uint32) []byte {
	if n == 0 {
		return nil
	}
	context := make([]byte, 192)
	binary.NativeEndian.PutUint32(context[164:], n) // gso_segs
	return context
}

// end is how a packet is to end.
type end struct {
	reason limiterReason
	action limiterAction
}

func (e end) String() string {
	return fmt.Sprintf("%s/%s", reasonNames[e.reason], actionNames[e.action])
}

func passed(r limiterReason) end   { return end{r, limiterActionACTION_PASS} }
func dropped(r limiterReason) end  { return end{r, limiterActionACTION_DROP} }
func observed(r limiterReason) end { return end{r, limiterActionACTION_OBSERVE} }

// verdict is an action in the words of a hook.
func (e end) verdict(h hook) uint32 {
	drop := e.action == limiterActionACTION_DROP
	switch {
	case h == hookXDP && drop:
		return xdpDrop
	case h == hookXDP:
		return xdpPass
	case drop:
		return tcShot
	}
	return tcUnspec
}

// expect judges a frame and wants this end of it: the hook's verdict, the bytes untouched, and the
// counter of the reason and action moved by all packets and bytes. See expectNoOther.
func (l *programLab) expect(h hook, frame []byte, segments uint32, want end, what string) {
	l.t.Helper()
	l.freshBudget()
	j := l.run(h, frame, segmentsContext(segments))
	index := counterIndex(slotOf(h), want.reason, want.action)
	sum := l.expected[index]
	sum = Counter{sum.Packets + uint64(max(segments, 1)), sum.Bytes + uint64(len(frame))}
	l.expected[index] = sum
	if j.verdict != want.verdict(h) {
		l.t.Errorf("%s %s: verdict %d, want %d (%v)", h, what, int32(j.verdict), int32(want.verdict(h)), want)
	}
	if !bytes.Equal(j.out, frame) {
		l.t.Errorf("%s %s: bytes changed:\n%x to\n%x", h, what, frame, j.out)
	}
	got, err := l.counter(slotOf(h), want.reason, want.action)
	must(l.t, err)
	if got != sum {
		l.t.Errorf("%s %s: counter of %v is %v, want %v", h, what, want, got, sum)
		l.expectNoOther()
	}
}

// expectNoOther wants every counter, of every interface slot, to be what expect wanted so far.
func (l *programLab) expectNoOther() {
	l.t.Helper()
	got := l.countersNow()
	if !stdmaps.Equal(got, l.expected) {
		l.t.Errorf("counters moved too much by %s, too little by %s", describe(got, l.expected), describe(l.expected, got))
	}
	l.expected = got
}

// describe says by how much some counters are above others.
func describe(some, others map[uint32]Counter) string {
	out := "nothing"
	for index, c := range some {
		if c.Packets <= others[index].Packets && c.Bytes <= others[index].Bytes {
			continue
		}
		in := index % countersPerInterface
		e := end{
			limiterReason(in / uint32(limiterActionACTION_COUNT)),
			limiterAction(in % uint32(limiterActionACTION_COUNT)),
		}
		out += fmt.Sprintf(", slot %d %v by %d packets %d bytes", index/countersPerInterface, e,
			c.Packets-others[index].Packets, c.Bytes-others[index].Bytes)
	}
	return out
}

// expectLine wants the ledger to hold this of a source, and strikes it out.
func (l *programLab) expectLine(source netip.Prefix, want ledgerLine, what string) {
	l.t.Helper()
	if got := l.take(source); got != want {
		l.t.Errorf("%s: ledger holds %v of %s, want %v", what, got, source, want)
	}
}

// expectLedger wants the ledger to hold this and nothing else.
func (l *programLab) expectLedger(want map[netip.Prefix]ledgerLine, what string) {
	l.t.Helper()
	if got := l.ledger(); !stdmaps.Equal(got, want) {
		l.t.Errorf("%s: ledger holds %v, want %v", what, got, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
