// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	stdmaps "maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ledgerKey is whom the ledger has a line of: a source, at a service or, by an empty name, at none.
type ledgerKey struct {
	source  netip.Prefix
	service string
}

// ledgerLine is what the ledger may hold of a source, but for its times.
type ledgerLine struct {
	admitted, refused uint64
	sampled           bool
}

// ledger is all that the ledger holds.
func (l *programLab) ledger() map[ledgerKey]ledgerLine {
	l.t.Helper()
	all, err := l.Sources()
	must(l.t, err)
	out := map[ledgerKey]ledgerLine{}
	for _, s := range all {
		out[ledgerKey{s.Prefix, s.Service}] = ledgerLine{s.Admitted, s.Refused, s.Sampled}
	}
	return out
}

// sourceKey is the key of a line of the ledger.
func (l *programLab) sourceKey(k ledgerKey) limiterSourceKey {
	l.t.Helper()
	key := limiterSourceKey{Addr: dataAddr(k.source.Addr()), Service: uint32(limiterAbiSERVICE_IDS)}
	for n, name := range l.inForce.names {
		if name == k.service {
			key.Service = l.service(n).Id
		}
	}
	return key
}

// take reads one line of the ledger and strikes it out; a source that it does not hold is zero.
func (l *programLab) take(k ledgerKey) ledgerLine {
	l.t.Helper()
	key := l.sourceKey(k)
	var s limiterSource
	err := l.maps.Sources.LookupAndDelete(key, &s)
	if isMissing(err) {
		return ledgerLine{}
	}
	must(l.t, err)
	return ledgerLine{s.Admitted, s.Refused, s.Flags&uint32(limiterSourceFlagSOURCE_SAMPLED) != 0}
}

// Counters are told apart by one number: those of interfaces first, by slot and end, then those of
// services and of limits by their ids.
const (
	servicesAt = uint32(1) << 16
	limitsAt   = uint32(1) << 17
)

func counterIndex(slot uint32, reason limiterReason, action limiterAction) uint32 {
	return slot*countersPerInterface + endIndex(reason, action)
}

// countersNow reads every counter there is, summed over CPUs; zeros are left out. What is counted by
// service and limit is counted by the lowest ids here, see expectNoneFar.
func (l *programLab) countersNow() map[uint32]Counter {
	l.t.Helper()
	cpus, size := ebpf.MustPossibleCPU(), int(l.maps.Counters.MaxEntries())
	if l.read == nil {
		l.read = make([]limiterCounts, size*cpus)
	}
	keys := make([]uint32, size)
	batch(l.t, l.maps.Counters, keys, l.read)
	out := map[uint32]Counter{}
	add := func(at uint32, all []limiterCounter) {
		for n, c := range all {
			if c != (limiterCounter{}) {
				sum := out[at+uint32(n)]
				out[at+uint32(n)] = Counter{sum.Packets + c.Packets, sum.Bytes + c.Bytes}
			}
		}
	}
	for n := range l.read {
		add(keys[n/cpus]*countersPerInterface, l.read[n].ByEnd[:])
		add(servicesAt, l.read[n].NearServices[:])
		add(limitsAt, l.read[n].NearLimits[:])
	}
	return out
}

// batch reads a whole map of counters, each once per CPU.
func batch[T any](t *testing.T, m *ebpf.Map, keys []uint32, values []T) {
	t.Helper()
	var cursor ebpf.MapBatchCursor
	n, err := m.BatchLookup(&cursor, keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) || n != len(keys) {
		t.Fatalf("read %d counters of %d: %v", n, len(keys), err)
	}
}

// expectNoneFar wants nothing to be counted by ids that no policy here has reached.
func (l *programLab) expectNoneFar(t *testing.T) {
	t.Helper()
	for _, m := range []*ebpf.Map{l.maps.ServiceCounters, l.maps.LimitCounters} {
		cpus, size := ebpf.MustPossibleCPU(), int(m.MaxEntries())
		values := make([]limiterCounter, size*cpus)
		batch(t, m, make([]uint32, size), values)
		for _, c := range values {
			if c != (limiterCounter{}) {
				t.Errorf("%s counted %v", m, c)
			}
		}
	}
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
		verdict, err := l.program(h).Run(&opts)
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
// It has one for many packets, so it is filled up again now and then.
func (l *programLab) freshBudget(h hook) {
	l.t.Helper()
	if l.runs[h]++; l.runs[h]%100 != 1 {
		return
	}
	var perCPU []limiterCounts
	must(l.t, l.maps.Counters.Lookup(slotOf(h), &perCPU))
	for cpu := range perCPU {
		perCPU[cpu].Ledger = limiterCounts{}.Ledger
	}
	must(l.t, l.maps.Counters.Put(slotOf(h), perCPU))
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
	case h == hookXDP && e.answers():
		return xdpTX
	case e.answers():
		return tcRedirect
	case h == hookXDP && drop:
		return xdpDrop
	case h == hookXDP:
		return xdpPass
	case drop:
		return tcShot
	}
	return tcUnspec
}

// answers: a packet goes back, so other bytes come out. What they are is another test.
func (e end) answers() bool {
	return slices.Contains([]limiterAction{limiterActionACTION_RESET, limiterActionACTION_CHALLENGE, limiterActionACTION_PROBE}, e.action)
}

// ownService and ownLimit say by a reason whose counter moves beside the interface's: that of the
// service that admitted, or that of the limit that did not.
func (e end) ownService() bool { return e.reason == limiterReasonREASON_UNDER_LIMIT }

func (e end) ownLimit() bool {
	return slices.Contains([]limiterReason{
		limiterReasonREASON_OVER_NEW, limiterReasonREASON_OVER_PACKETS, limiterReasonREASON_OVER_BYTES_IN,
		limiterReasonREASON_OVER_BYTES_OUT,
		limiterReasonREASON_TABLE_FULL, limiterReasonREASON_CONTENDED,
		limiterReasonREASON_OVER_CONCURRENT,
	}, e.reason)
}

// expect judges a frame and wants this end of it: the hook's verdict, the bytes untouched, and the
// counter of the reason and action moved by all packets and bytes, and that of the first service or limit
// beside it where one decides. See expectNoOther.
func (l *programLab) expect(h hook, frame []byte, segments uint32, want end, what string) {
	l.t.Helper()
	l.expectAt(h, frame, segments, want, l.service(0).Id, l.limit(0).Id, what)
}

// expectAt is expect for a packet to the service with an id, and where a limit decides, that one.
func (l *programLab) expectAt(h hook, frame []byte, segments uint32, want end, service, limit uint32, what string) {
	l.t.Helper()
	l.freshBudget(h)
	j := l.run(h, frame, segmentsContext(segments))
	index := counterIndex(slotOf(h), want.reason, want.action)
	moved := []uint32{index}
	if want.ownService() {
		moved = append(moved, servicesAt+service)
	}
	if want.ownLimit() {
		moved = append(moved, limitsAt+limit)
	}
	for _, m := range moved {
		sum := l.expected[m]
		l.expected[m] = Counter{sum.Packets + uint64(max(segments, 1)), sum.Bytes + uint64(len(frame))}
	}
	if j.verdict != want.verdict(h) {
		l.t.Errorf("%s %s: verdict %d, want %d (%v)", h, what, int32(j.verdict), int32(want.verdict(h)), want)
	}
	if bytes.Equal(j.out, frame) == want.answers() {
		l.t.Errorf("%s %s: bytes changed:\n%x to\n%x", h, what, frame, j.out)
	}
	all, err := l.ends(slotOf(h))
	must(l.t, err)
	if got := all.of(want.reason, want.action); got != l.expected[index] {
		l.t.Errorf("%s %s: counter of %v is %v, want %v", h, what, want, got, l.expected[index])
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
		if index >= servicesAt {
			kind, id := "service", index-servicesAt
			if index >= limitsAt {
				kind, id = "limit", index-limitsAt
			}
			out += fmt.Sprintf(", %s %d by %d packets %d bytes", kind, id, c.Packets-others[index].Packets, c.Bytes-others[index].Bytes)
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
func (l *programLab) expectLine(k ledgerKey, want ledgerLine, what string) {
	l.t.Helper()
	if got := l.take(k); got != want {
		l.t.Errorf("%s: ledger holds %v of %v, want %v", what, got, k, want)
	}
}

// expectLedger wants the ledger to hold this and nothing else.
func (l *programLab) expectLedger(want map[ledgerKey]ledgerLine, what string) {
	l.t.Helper()
	if got := l.ledger(); !stdmaps.Equal(got, want) {
		l.t.Errorf("%s: ledger holds %v, want %v", what, got, want)
	}
}
