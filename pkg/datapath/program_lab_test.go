// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

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

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
