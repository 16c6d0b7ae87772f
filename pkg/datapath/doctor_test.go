// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
)

// findingNames are the lines of a check of the kernel, in their order.
var findingNames = []string{
	"privileges",
	"xdp programs", "tc programs", "xdp multi-buffer", "instructions v3", "compare-and-swap",
	"global functions", "jit", "callbacks",
	"helper bpf_loop", "helper bpf_ktime_get_ns", "helper bpf_ktime_get_coarse_ns",
	"helper bpf_get_prandom_u32", "helper bpf_xdp_load_bytes", "helper bpf_xdp_get_buff_len",
	"helper bpf_skb_load_bytes", "helper bpf_skb_load_bytes_relative",
	"map array", "map percpu_array", "map hash", "map lru_hash", "map lpm_trie",
	"map flag mmapable", "map flag no_prealloc",
	"xdp link", "netns cookie", "bpf file system",
	"tcx", "membarrier", "kernel btf", "clock tick", "root cgroup v2",
}

func TestDoctorOfAKernelThatCan(t *testing.T) {
	testenv.RequireRoot(t)
	var names []string
	for _, f := range Doctor(DefaultPinDir, "") {
		names = append(names, f.Name)
		// Whether a bpffs is mounted in its usual place says nothing of the kernel.
		if !f.OK && f.Name != "bpf file system" {
			t.Errorf("%s: %s; %s", f.Name, f.Detail, f.Fix)
		}
		wantOneLine(t, f)
	}
	if !slices.Equal(names, findingNames) {
		t.Errorf("findings are %q, want %q", names, findingNames)
	}
}

func wantOneLine(t *testing.T, f Finding) {
	t.Helper()
	if f.Detail == "" || strings.Contains(f.Detail+f.Fix, "\n") {
		t.Errorf("%s: detail %q, fix %q; want one line each", f.Name, f.Detail, f.Fix)
	}
	if !f.OK && f.Fix == "" {
		t.Errorf("%s: %s, and no way out", f.Name, f.Detail)
	}
}

// A namespace of its own has no net.core.bpf_jit_enable and another lo.
func TestRequireFeaturesInAnotherNamespace(t *testing.T) {
	ns := testenv.NewNamespace(t, "features")
	if err := ns.Do(RequireFeatures); err != nil {
		t.Error(err)
	}
}

func TestThisKernelHasWhatIsRequired(t *testing.T) {
	testenv.RequireRoot(t)
	if err := RequireFeatures(); err != nil {
		t.Fatal(err)
	}
}

func TestRequireNamesTheFirstMissing(t *testing.T) {
	tried := 0
	yes := feature{name: "wings", probe: plain(func() error { tried++; return nil })}
	no := feature{name: "gills", need: "diving needs them", probe: plain(func() error { return ebpf.ErrNotSupported })}
	denied := feature{name: "paws", fix: "grow some", probe: plain(func() error { return unix.EPERM })}
	words := feature{name: "fur", fix: "brush it", probe: plain(func() error { return probeError("too short") })}

	if err := requireAll([]feature{yes, yes}); err != nil || tried != 2 {
		t.Errorf("nothing missing: %v, %d tried", err, tried)
	}
	for _, c := range []struct {
		features []feature
		want     string
	}{
		{[]feature{yes, no, denied}, "gills: this kernel does not have it; diving needs them: " + floor + ""},
		{[]feature{denied, no}, "paws: could not be tried: operation not permitted; grow some"},
		{[]feature{words, yes}, "fur: too short; brush it"},
	} {
		err := requireAll(c.features)
		if !errors.Is(err, ErrUnsupported) || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
}

// A probe that cannot fail proves nothing: what no kernel has must be reported missing.
func TestProbesTellWhatIsMissing(t *testing.T) {
	testenv.RequireRoot(t)
	helper := helperFeature("nonsense", asm.BuiltinFunc(9999), []ebpf.ProgramType{ebpf.XDP}, "")
	if f := helper.try(); f.OK || f.Detail != "this kernel does not have it" {
		t.Errorf("a helper that does not exist: %+v", f)
	}
	if err := probeProgram(ebpf.ProgramSpec{Flags: 1 << 30}); !errors.Is(err, ebpf.ErrNotSupported) {
		t.Errorf("a load flag that does not exist: %v", err)
	}
	unknown := append(asm.Instructions{asm.Instruction{OpCode: 0xf6}}, passAll()...)
	if err := probeProgram(ebpf.ProgramSpec{Instructions: unknown}); !errors.Is(err, ebpf.ErrNotSupported) {
		t.Errorf("an instruction that does not exist: %v", err)
	}
}

func TestProbesLeaveLoopbackAlone(t *testing.T) {
	ns := testenv.NewNamespace(t, "lo")
	inside(t, ns, func() {
		Doctor(DefaultPinDir, "")
		for _, f := range interfaceFindings("lo") {
			if (f.Name == "xdp program" || f.Name == "tc programs") && f.Detail != "none" {
				t.Errorf("lo has %s: %s", f.Name, f.Detail)
			}
		}
	})
}

// inside runs fn in a namespace.
func inside(t *testing.T, ns *testenv.Namespace, fn func()) {
	t.Helper()
	if err := ns.Do(func() error { fn(); return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestBPFFileSystem(t *testing.T) {
	mounted := pinDir(testenv.BPFFS(t) + "/synward")
	if f := bpffsFeature(mounted).try(); !f.OK {
		t.Errorf("a bpffs: %+v", f)
	}
	plainDir := t.TempDir()
	f := bpffsFeature(pinDir(plainDir + "/synward")).try()
	want := Finding{
		Name: "bpf file system", Detail: plainDir + " is none, and pins need one", Fix: "mount -t bpf bpf " + plainDir,
	}
	if f != want {
		t.Errorf("got  %+v\nwant %+v", f, want)
	}
	if f := bpffsFeature(pinDir(plainDir + "/missing/synward")).try(); f.OK || !strings.Contains(f.Detail, "no such file") {
		t.Errorf("no directory: %+v", f)
	}
}

// Root without its capabilities, as in a container: one finding says so and nothing else is tried.
func TestDoctorWithoutCapabilities(t *testing.T) {
	testenv.RequireRoot(t)
	var findings []Finding
	var err error
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		failed := unix.Capset(&header, &none[0])
		findings, err = Doctor(DefaultPinDir, ""), RequireFeatures()
		done <- failed
	}()
	if failed := <-done; failed != nil {
		t.Fatalf("drop capabilities: %v", failed)
	}
	if findings[0].OK || !strings.Contains(findings[0].Detail, "without CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON") {
		t.Errorf("first finding: %+v", findings[0])
	}
	if findings[1].Name != "bpf file system" {
		t.Errorf("%s was tried", findings[1].Name)
	}
	if !errors.Is(err, ErrUnsupported) || !strings.HasPrefix(err.Error(), "privileges: ") {
		t.Errorf("require: %v", err)
	}
}

func TestLackingCapabilities(t *testing.T) {
	grant := func(caps ...uint) (data [2]unix.CapUserData) {
		for _, c := range caps {
			data[c/32].Effective |= 1 << (c % 32)
		}
		return data
	}
	for _, c := range []struct {
		name string
		have [2]unix.CapUserData
		want []string
	}{
		{"all three", grant(unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON), nil},
		{"admin contains two", grant(unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN), nil},
		{"admin is not the network's", grant(unix.CAP_SYS_ADMIN), []string{"CAP_NET_ADMIN"}},
		{"one", grant(unix.CAP_BPF), []string{"CAP_NET_ADMIN", "CAP_PERFMON"}},
	} {
		if got := lackingCapabilities(c.have); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: lacking %v, want %v", c.name, got, c.want)
		}
	}
}
