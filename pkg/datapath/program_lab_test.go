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
	frozen   frozen
	programs map[programKey]*ebpf.Program
	// general: the programs that run have every feature, and not only those that the policy needs.
	general bool
	saved   map[string]savedPolicy
	inForce savedPolicy
	applied savedPolicy
	// expected is what every counter must hold by all that expect wanted so far, zeros left out.
	expected map[uint32]Counter
	added    map[List][]netip.Prefix
	runs     map[hook]int // see freshBudget
	read     []limiterCounts
}

type programKey struct {
	hook     hook
	features uint32
}

// savedPolicy is what one policy has in its slot, but for what all policies of one shape have in common.
type savedPolicy struct {
	key, shape string
	head       limiterPolicy
	services   []limiterService
	names      []string // of the services
	limits     map[uint32]limiterLimit
}

func newProgramLab(t *testing.T, f frozen) *programLab {
	t.Helper()
	testenv.RequireRoot(t)
	m, err := createMaps()
	must(t, err)
	i, err := newInstance("", nil, m)
	must(t, err)
	t.Cleanup(i.release)
	must(t, i.begin())
	l := &programLab{
		Instance: i, t: t, frozen: f, programs: map[programKey]*ebpf.Program{}, saved: map[string]savedPolicy{},
		expected: map[uint32]Counter{}, added: map[List][]netip.Prefix{}, runs: map[hook]int{},
	}
	t.Cleanup(func() {
		l.expectNoneFar(t)
		for _, p := range l.programs {
			p.Close()
		}
	})
	l.rules(nil)
	return l
}

// specialisedAndGeneral runs a test with programs that have what the policy needs and no more, and again
// with those that can do everything: what they say may not differ.
func (l *programLab) specialisedAndGeneral(test func()) {
	l.t.Helper()
	for _, l.general = range []bool{false, true} {
		test()
	}
}

// program is a hook's program, with the features that are asked for at this moment.
func (l *programLab) program(h hook) *ebpf.Program {
	l.t.Helper()
	f := l.frozen
	f.slot, f.features = slotOf(h), l.head().Features
	if l.general {
		f.features = uint32(limiterFeatureFEATURE_ALL)
	}
	key := programKey{h, f.features}
	if l.programs[key] == nil {
		p, err := l.maps.loadProgram(h, f)
		if err != nil {
			l.t.Fatalf("load %s with features %#x: %v", h, f.features, err)
		}
		l.programs[key] = p
	}
	return l.programs[key]
}

func slotOf(h hook) uint32 {
	if h == hookXDP {
		return 5
	}
	return uint32(limiterAbiMAX_INTERFACES) - 1
}

// sourceOf is what counts as one source by default.
func sourceOf(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(a, 32)
	}
	return netip.PrefixFrom(a, 64).Masked()
}

// onceADay is a limit under which time plays no part in a test: burst connections, and no more.
func onceADay(burst uint64) *policy.NewLimit {
	return &policy.NewLimit{Rate: policy.Rate{Count: 1, Period: 24 * time.Hour}, Burst: burst}
}

// rules puts a policy in force with one service, all TCP ports, that drops what is over the limit and what
// meets a full table, with changes made.
func (l *programLab) rules(limit *policy.NewLimit, changes ...func(p *policy.Policy)) {
	l.t.Helper()
	p := policy.Default(limit)
	p.OnTableFull = policy.TableFullDrop
	for _, change := range changes {
		change(p)
	}
	l.use(p)
}

// use puts a policy in force as it was before any test poked at it. To apply one takes two grace
// periods, so what was applied once is put back by hand where only heads, services and limits differ.
func (l *programLab) use(p *policy.Policy) {
	l.t.Helper()
	p.Normalize()
	key := string(p.YAML())
	if had, ok := l.saved[key]; ok && had.shape == l.applied.shape {
		l.restore(had)
		return
	}
	if l.applied.key != "" {
		l.restore(l.applied) // for the next one goes on with what it finds there
	}
	must(l.t, l.Apply(ApplyOptions{Policy: p, By: "a test"}))
	now := l.save(key, p)
	l.saved[key], l.inForce, l.applied = now, now, now
}

func (l *programLab) save(key string, p *policy.Policy) savedPolicy {
	l.t.Helper()
	limits, err := l.limitsInForce(l.live().generation)
	must(l.t, err)
	saved := savedPolicy{key: key, head: *l.head(), limits: limits}
	for n, s := range p.Services {
		saved.services = append(saved.services, *l.service(n))
		saved.names = append(saved.names, s.Name)
		saved.shape += fmt.Sprint(s.Name, s.Listen)
	}
	if l.head().Listed > 0 { // entries of lists, sets or local addresses are only there for this generation
		saved.shape += fmt.Sprint(" ", l.live().generation)
	}
	return saved
}

// restore puts a policy into the slot in force. Regions may have been used by another meanwhile.
func (l *programLab) restore(s savedPolicy) {
	l.t.Helper()
	generation := l.head().Generation
	*l.head() = s.head
	l.head().Generation = generation
	for n, service := range s.services {
		*l.service(n) = service
	}
	for at, limit := range s.limits {
		*l.limit(int(at)) = limit
		if was, ok := l.inForce.limits[at]; limit.metered() && (!ok || was.region() != limit.region() || was.class() != limit.class()) {
			drain(l.tables, &limit, monotonicNow())
		}
	}
	l.inForce = s
}

// head, service and limit are what the data path reads of the policy in force.
func (l *programLab) head() *limiterPolicy { return &l.control.Policies[l.slot()] }

func (l *programLab) service(n int) *limiterService {
	return &l.tables.Services[int(l.slot()*uint32(limiterAbiMAX_SERVICES))+n]
}

func (l *programLab) limit(n int) *limiterLimit {
	return &l.tables.Limits[int(l.slot()*uint32(limiterAbiMAX_LIMITS))+n]
}

func (l *programLab) slot() uint32 { return slotOfGeneration(l.live().generation) }

// emptyMeters makes the levels of the policy's limits those of a table that nobody has used.
func (l *programLab) emptyMeters() {
	l.t.Helper()
	for n := range int(l.head().Limits) {
		limit := l.limit(n)
		l.tables.LimitStates[limit.Id] = limiterLimitState{}
		if limit.metered() {
			drain(l.tables, limit, monotonicNow())
		}
	}
}

func observing(p *policy.Policy) { p.Mode = policy.Observe }
func strictly(p *policy.Policy)  { p.StrictParsing = true }
func failOpen(p *policy.Policy)  { p.OnTableFull = policy.TableFullPass }

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
func (e end) answers() bool { return e.action == limiterActionACTION_RESET }

// ownService and ownLimit say by a reason whose counter moves beside the interface's: that of the
// service that admitted, or that of the limit that did not.
func (e end) ownService() bool { return e.reason == limiterReasonREASON_UNDER_LIMIT }

func (e end) ownLimit() bool {
	return slices.Contains([]limiterReason{
		limiterReasonREASON_OVER_NEW, limiterReasonREASON_OVER_PACKETS, limiterReasonREASON_OVER_BYTES_IN,
		limiterReasonREASON_TABLE_FULL, limiterReasonREASON_CONTENDED,
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

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
