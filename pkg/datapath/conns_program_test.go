// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"os"
	"path/filepath"
	"testing"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

var isOverConcurrent = dropped(limiterReasonREASON_OVER_CONCURRENT)

// concurrent makes the first limit one of so many concurrent connections. By hand, for nothing is attached here.
func (l *programLab) concurrent(most uint64) *limiterLimit {
	l.t.Helper()
	l.head().Features |= uint32(limiterFeatureFEATURE_MANY) | concurrentFeature
	l.service(0).Flags = uint32(limiterServiceFlagSERVICE_CONCURRENT)
	limit := l.limit(0)
	limit.Kind, limit.Capacity = uint8(limiterLimitKindLIMIT_CONCURRENT), most
	limit.Over = limit.Over&^0xff | uint32(limiterReasonREASON_OVER_CONCURRENT)
	return limit
}

// forgetWaiting empties the tables of what waits.
func (l *programLab) forgetWaiting() {
	l.t.Helper()
	for n := range uint32(limiterConnSizePENDING_BUCKETS) {
		must(l.t, l.maps.Pending.Put(n, limiterPendingBucket{}))
	}
	for n := range uint32(limiterConnSizeWAITING_CELLS) {
		must(l.t, l.maps.Waiting.Put(n, uint64(0)))
	}
}

// A SYN is refused when what is established, reserved and waits reaches the limit. One that is sent again waits
// already, and passes; what is established and reserved refuses it all the same.
func TestConcurrentSYNs(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	from := func(port uint16) []byte { return syn4(func(p *tg.Packet) { p.SrcPort = port }).Bytes() }
	for _, h := range bothHooks {
		l.rules(onceADay(5))
		limit := l.concurrent(5)
		l.forgetWaiting()
		key := connKeyOf(limit, client4.Addr())
		must(t, l.maps.Conns.Put(key, uint64(2|1<<32)))
		l.expect(h, from(1001), 0, isNew, "the fourth")
		l.expect(h, from(1001), 0, isNew, "the fourth again")
		l.expect(h, from(1002), 0, isNew, "the fifth")
		l.expect(h, from(1003), 0, isOverConcurrent, "the sixth")
		l.expect(h, from(1002), 0, isNew, "the fifth again")
		must(t, l.maps.Conns.Put(key, uint64(5)))
		l.expect(h, from(1002), 0, isOverConcurrent, "the fifth again, when five are established")
		must(t, l.maps.Conns.Delete(key))
		l.expect(h, from(1003), 0, isNew, "the third")
	}
	l.take(ledgerKey{sourceOf(client4.Addr()), "default"})
	l.expectNoOther()
}

// Every program of connections passes this kernel's verifier.
func TestConcurrentProgramsLoad(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, name := range []string{connsProgSynwardGate, connsProgSynwardState, connsProgSynwardSeed} {
		prog, err := l.maps.loadConns(name, connSettings{epoch: 1})
		must(t, err)
		must(t, prog.Close())
	}
}

// The root of cgroup v2 is told from a cgroup below it, wherever it is mounted, and found where it is mounted nowhere.
func TestRootCgroup(t *testing.T) {
	mounted, err := mountCgroup()
	must(t, err)
	defer mounted.Close()
	child := filepath.Join(mounted.path(), "synward-test-child")
	must(t, os.Mkdir(child, 0o755))
	defer os.Remove(child)
	if root, err := openCgroup(child); err == nil {
		root.Close()
		t.Error("a child was taken for the root")
	}
	root, err := rootCgroup()
	must(t, err)
	defer root.Close()
	for _, dir := range []string{root.path(), mounted.path()} {
		if _, err := os.Stat(filepath.Join(dir, "synward-test-child")); err != nil {
			t.Errorf("%s is not the root: %v", dir, err)
		}
	}
	got := cgroupMounts([]byte("none /a cgroup rw 0 0\nnone /sys/my\\040cgroups cgroup2 rw 0 0\n"))
	if len(got) != 1 || got[0] != "/sys/my cgroups" {
		t.Errorf("mounts: %q", got)
	}
}
