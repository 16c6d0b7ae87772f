// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

//go:generate go tool bpf2go -target bpfel -output-suffix _test limiterBench ../../bpf/tests/bench.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu

// How the cost of a path is measured: rounds of floor and path in turn, each so many packets.
const (
	costRounds  = 31
	costPackets = 200_000
)

// costPath is one way through the program, what it is held against, and how much of that it may cost.
// A goal of 0 is only shown.
type costPath struct {
	name         string
	floor, entry string
	frame        []byte
	goal         float64
	prepare      func(i *Instance) error
}

func costPaths() []costPath {
	src, dst := netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("192.0.2.1:443")
	syn := trafficgen.SYN(src, dst).Bytes()
	ack := trafficgen.Segment(src, dst, trafficgen.ACK).Bytes()
	limit := func(count uint64, period time.Duration, burst uint64) func(*Instance) error {
		return func(i *Instance) error {
			return i.SetLimit(&policy.NewLimit{Rate: policy.Rate{Count: count, Period: period}, Burst: burst})
		}
	}
	onList := func(l List, prefix string) func(*Instance) error {
		return func(i *Instance) error { return i.Add(l, []Entry{{Prefix: netip.MustParsePrefix(prefix)}}) }
	}
	return []costPath{
		{"established", "floor_parse", limiterProgSynwardXdp, ack, 1.3, limit(50, time.Second, 100)},
		{"over limit, one source", "floor_parse", limiterProgSynwardXdp, syn, 2.0, limit(50, time.Second, 100)},
		{"over limit that bans, one source", "floor_parse", limiterProgSynwardXdp, syn, 2.4, banned(50, 100)},
		{"under limit, one source", "floor_parse", limiterProgSynwardXdp, syn, 0, limit(7_000_000, time.Second, 1<<25)},
		{"spoofed flood, random over 2^32", "floor_random", "journey_random", syn, 4.0, limit(50, time.Second, 100)},
		{"allowed host", "floor_parse", limiterProgSynwardXdp, syn, 0, onList(Allow, "198.51.100.7/32")},
		{"blocked host", "floor_parse", limiterProgSynwardXdp, syn, 0, onList(Block, "198.51.100.7/32")},
		{"blocked prefix", "floor_parse", limiterProgSynwardXdp, syn, 0, onList(Block, "198.51.100.0/24")},
		{"over limit, one of many services", "floor_parse", limiterProgSynwardXdp, syn, 0, services(1)},
		{"over the last of 8 limits", "floor_parse", limiterProgSynwardXdp, syn, 3.5, services(8)},
	}
}

// banned is a policy of one service, whose limit probes whom it drops. It may cost a fifth more than without a ban.
func banned(perSecond, burst uint64) func(*Instance) error {
	p := &policy.Policy{Services: []policy.Service{{
		Name: "default", Listen: []policy.Listen{{Proto: policy.TCP, First: 0, Last: 65535}},
		Limits: []policy.Limit{{
			Kind: policy.KindNew, Per: policy.PerSource, Rate: policy.Rate{Count: perSecond, Period: time.Second}, Burst: burst,
			Ban: &policy.Ban{After: 5, Within: time.Minute, For: time.Minute},
		}},
	}}}
	p.Normalize()
	return func(i *Instance) error { return i.Apply(ApplyOptions{Policy: p}) }
}

// services is a policy of several services, in which one has so many limits; the last of them is soon met.
func services(limits int) func(*Instance) error {
	p := &policy.Policy{}
	for port := uint16(440); port < 450; port++ {
		s := policy.Service{Name: fmt.Sprintf("p%d", port), Listen: []policy.Listen{{Proto: policy.TCP, First: port, Last: port}}}
		for n := range limits {
			s.Limits = append(s.Limits, policy.Limit{
				Kind: policy.KindNew, Per: policy.PerSource, Burst: uint64(1000 - 100*n),
				Rate: policy.Rate{Count: uint64(1000 - 100*n), Period: time.Duration(n+1) * time.Second},
			})
		}
		p.Services = append(p.Services, s)
	}
	p.Normalize()
	return func(i *Instance) error { return i.Apply(ApplyOptions{Policy: p}) }
}

// BenchmarkCost measures what each path costs beside its floor and fails where the goal is surely
// missed: where the lower end of the 95 % interval of the median ratio lies above it.
func BenchmarkCost(b *testing.B) {
	for _, path := range costPaths() {
		b.Run(path.name, func(b *testing.B) {
			for range b.N {
				measureCost(b, path)
			}
		})
	}
}

func measureCost(b *testing.B, path costPath) {
	programs := costBench(b, path.prepare)
	floors, costs, ratios := make([]float64, costRounds), make([]float64, costRounds), make([]float64, costRounds)
	for round := range costRounds {
		floors[round] = nsPerPacket(b, programs[path.floor], path.frame)
		costs[round] = nsPerPacket(b, programs[path.entry], path.frame)
		ratios[round] = costs[round] / floors[round]
	}
	low, mid, high := medianInterval(ratios)
	_, floor, _ := medianInterval(floors)
	_, cost, _ := medianInterval(costs)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(floor, "floor-ns")
	b.ReportMetric(cost, "path-ns")
	b.ReportMetric(mid, "x-floor")
	b.ReportMetric(low, "x-low")
	b.ReportMetric(high, "x-high")
	if path.goal > 0 && low > path.goal {
		b.Errorf("%s costs %.2f x its floor (95 %%: %.2f to %.2f), the goal is %.2f", path.name, mid, low, high, path.goal)
	}
}

// costBench is an instance that is pinned nowhere and every program on its maps, specialised as the state
// that prepare makes needs them.
func costBench(b *testing.B, prepare func(*Instance) error) map[string]*ebpf.Program {
	m, err := createMaps()
	if err != nil {
		b.Fatal(err)
	}
	i, err := newInstance("", nil, m)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(i.release)
	if err := errors.Join(i.begin(), prepare(i)); err != nil {
		b.Fatal(err)
	}
	spec, err := loadLimiterBench()
	if err != nil {
		b.Fatal(err)
	}
	if err := spec.Variables[limiterVarFeatures].Set(i.featuresNeeded()); err != nil {
		b.Fatal(err)
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: m.replacements()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(coll.Close)
	return coll.Programs
}

// nsPerPacket is the CPU time that the calling thread spent on a test run, over its packets: the
// kernel's own figure is cut to whole nanoseconds, which are a tenth of a floor. The loop around the
// program is in it, in the floor's as in the path's, and one system call, which is nothing beside.
func nsPerPacket(b *testing.B, prog *ebpf.Program, frame []byte) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime(b)
	if _, _, err := prog.Benchmark(frame, costPackets, nil); err != nil {
		b.Fatal(err)
	}
	return float64(threadTime(b)-before) / costPackets
}

func threadTime(b *testing.B) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		b.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// medianInterval is the median and its 95 % interval by order statistics: no distribution is assumed.
func medianInterval(values []float64) (low, mid, high float64) {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	// For a binomial(n, 1/2) the ranks n/2 -+ sqrt(n) hold at least 95 %.
	half := 0
	for half*half < n {
		half++
	}
	return sorted[max(n/2-half, 0)], sorted[n/2], sorted[min(n/2+half, n-1)]
}

// scalingGoal: two CPUs on one over-limit source get through as much more than one CPU as the floor
// does, within this factor. A refusal that wrote to a shared cache line would not.
const scalingGoal = 0.95

// BenchmarkScaling runs the over-limit path on one CPU and on two at once, beside the floor.
func BenchmarkScaling(b *testing.B) {
	path := costPaths()[1]
	for range b.N {
		programs := costBench(b, path.prepare)
		scaling := make([]float64, costRounds)
		for round := range costRounds {
			floor := onCPUs(b, programs[path.floor], path.frame, 1) / onCPUs(b, programs[path.floor], path.frame, 2)
			scaling[round] = onCPUs(b, programs[path.entry], path.frame, 1) / onCPUs(b, programs[path.entry], path.frame, 2) / floor
		}
		low, mid, high := medianInterval(scaling)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(mid, "x-scaling")
		b.ReportMetric(low, "x-low")
		b.ReportMetric(high, "x-high")
		if high < scalingGoal {
			b.Errorf("two CPUs scale %.2f x as well as the floor (95 %%: %.2f to %.2f), the goal is %.2f", mid, low, high, scalingGoal)
		}
	}
}

// onCPUs is the mean cost of a packet when the first n CPUs are at it at once.
func onCPUs(b *testing.B, prog *ebpf.Program, frame []byte, n int) float64 {
	costs := make(chan float64, n)
	for cpu := range n {
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with its affinity
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				b.Error(err)
			}
			costs <- nsPerPacket(b, prog, frame)
		}()
	}
	var sum float64
	for range n {
		sum += <-costs
	}
	return sum / float64(n)
}
