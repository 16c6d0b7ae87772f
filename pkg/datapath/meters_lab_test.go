// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

//go:generate go tool bpf2go -target bpfel -type meter_verdict -output-suffix _test metersTest ../../bpf/tests/meters_test.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu

// seedVariable of the environment sets the seed of every random test here.
const seedVariable = "SYNWARD_TEST_SEED"

// testSeed is what it says, or else the time; the log names it.
func testSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(seedVariable); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	t.Logf("%s=%d", seedVariable, seed)
	// rapid draws from the same seed.
	must(t, flag.Set("rapid.seed", strconv.FormatUint(max(seed, 1), 10)))
	return seed
}

// The verdicts of meter_charge.
const (
	admitted  = uint32(metersTestMeterVerdictMETER_ADMITTED)
	over      = uint32(metersTestMeterVerdictMETER_OVER)
	full      = uint32(metersTestMeterVerdictMETER_FULL)
	contended = uint32(metersTestMeterVerdictMETER_CONTENDED)
)

// meterObjects is what of the test program is loaded: no map that it does not use.
type meterObjects struct {
	ChargeSteps *ebpf.Program  `ebpf:"charge_steps"`
	Steps       *ebpf.Map      `ebpf:"steps"`
	Limits      *ebpf.Map      `ebpf:"step_limits"`
	Tables      *ebpf.Map      `ebpf:".bss"`
	Arrived     *ebpf.Variable `ebpf:"arrived"`
}

// meterLab is the meters of the data path, in the kernel, on virtual time.
type meterLab struct {
	t       testing.TB
	objects meterObjects
	steps   []metersTestStep
	tables  *sharedTables
	slots   []uint64 // of all buckets
	limits  []limiterLimit
}

func newMeterLab(t *testing.T) *meterLab {
	t.Helper()
	testenv.RequireRoot(t)
	l := &meterLab{t: t}
	if err := loadMetersTestObjects(&l.objects, nil); err != nil {
		t.Fatalf("load: %+v", err)
	}
	for _, object := range []io.Closer{l.objects.ChargeSteps, l.objects.Steps, l.objects.Limits, l.objects.Tables} {
		t.Cleanup(func() { object.Close() })
	}
	steps, err := mapWords(l.objects.Steps)
	must(t, err)
	t.Cleanup(func() { steps.close() })
	tables, err := mapShared[sharedTables](l.objects.Tables)
	must(t, err)
	t.Cleanup(func() { tables.close() })
	var step metersTestStep
	count := len(steps.all) * 8 / int(unsafe.Sizeof(step))
	l.steps = unsafe.Slice((*metersTestStep)(unsafe.Pointer(&steps.all[0])), count)
	l.tables, l.slots = tables.value, slots(tables.value.Meters[:])
	return l
}

// use sets the limits that steps name by their place, and empties their regions at meterEpoch.
func (l *meterLab) use(limits ...limiterLimit) {
	l.t.Helper()
	l.useAt(meterEpoch, limits...)
}

// useAt does so at a time of the virtual clock.
func (l *meterLab) useAt(nowNs uint64, limits ...limiterLimit) {
	l.t.Helper()
	l.limits = limits
	for i, limit := range limits {
		drain(l.tables, &limit, nowNs)
		must(l.t, l.objects.Limits.Put(uint32(i), metersTestLimit(limit)))
	}
}

// meterLimit compiles a limit on buckets (a power of two) of the table.
func meterLimit(t testing.TB, l policy.NewLimit, buckets uint32) limiterLimit {
	t.Helper()
	compiled, err := compileLimit(perSourceLimit(l))
	must(t, err)
	compiled.BucketMask = buckets - 1
	return compiled.limiterLimit
}

// step is one decision to make.
func step(limit int, hash, nowNs uint64) metersTestStep {
	return metersTestStep{Hash: hash, NowNs: nowNs, Limit: uint32(limit), Verdict: ^uint32(0)}
}

// charge takes steps in order, any number, and returns their verdicts.
func (l *meterLab) charge(steps ...metersTestStep) []uint32 {
	l.t.Helper()
	out := make([]uint32, 0, len(steps))
	for len(steps) > 0 {
		n := copy(l.steps, steps)
		l.run(job(0, n, 1))
		for _, s := range l.steps[:n] {
			out = append(out, s.Verdict)
		}
		steps = steps[n:]
	}
	return out
}

// job is the packet that tells the program which steps to take.
func job(first, count, crew int) []byte {
	b := make([]byte, 64)
	for i, v := range []int{first, count, crew} {
		binary.NativeEndian.PutUint32(b[4*i:], uint32(v))
	}
	return b
}

func (l *meterLab) run(job []byte) {
	l.t.Helper()
	if err := l.tryRun(job); err != nil {
		l.t.Fatal(err)
	}
}

func (l *meterLab) tryRun(job []byte) error {
	verdict, err := l.objects.ChargeSteps.Run(&ebpf.RunOptions{Data: job})
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	if verdict != xdpPass {
		return fmt.Errorf("run ended early with %d", verdict)
	}
	return nil
}

// pinned runs fn on one CPU.
func pinned(cpu int, fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	only.Set(cpu)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return err
	}
	defer unix.SchedSetaffinity(0, &before)
	return fn()
}

// cpus are those that this process may run on.
func cpus(t *testing.T) []int {
	t.Helper()
	var set unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &set))
	var out []int
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			out = append(out, cpu)
		}
	}
	return out
}
