// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
)

// byName turns findings into details by name and wants each to be one line.
func byName(t *testing.T, findings []Finding) map[string]Finding {
	t.Helper()
	all := map[string]Finding{}
	for _, f := range findings {
		wantOneLine(t, f)
		all[f.Name] = f
	}
	return all
}

func wantDetails(t *testing.T, got map[string]Finding, want map[string]string) {
	t.Helper()
	for name, detail := range want {
		if f := got[name]; !f.OK || f.Detail != detail {
			t.Errorf("%s: ok %v, %q; want %q", name, f.OK, f.Detail, detail)
		}
	}
}

// pair is a namespace with one end of a veth, v0, up.
func pair(t *testing.T) *testenv.Namespace {
	t.Helper()
	ns, far := testenv.NewNamespace(t, "near"), testenv.NewNamespace(t, "far")
	testenv.Veth(t, ns, "v0", far, "v1")
	if err := ns.LinkUp("v0"); err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestDoctorOfVeth(t *testing.T) {
	ns := pair(t)
	index, err := ns.Index("v0")
	if err != nil {
		t.Fatal(err)
	}
	inside(t, ns, func() {
		got := byName(t, interfaceFindings("v0"))
		wantDetails(t, got, map[string]string{
			"interface":   fmt.Sprintf("v0, index %d, up", index),
			"driver":      "veth",
			"link layer":  "Ethernet: native, tc and generic",
			"rx queues":   fmt.Sprint(linkOf(t, "v0").Attrs().NumRxQueues),
			"mtu":         "1500",
			"xdp program": "none",
			"tc programs": "none",
		})
		native := got["native xdp"].Detail
		if _, err := announcedXDP(index); errors.Is(err, errNotAnnounced) {
			wantDetails(t, got, map[string]string{"native xdp": "unknown until attach: " + errNotAnnounced.Error()})
		} else if !strings.HasPrefix(native, "announced by the driver") {
			t.Errorf("native xdp: %q", native)
		}
	})
}

func TestDoctorOfLoopbackAndTun(t *testing.T) {
	ns := testenv.NewNamespace(t, "l3")
	inside(t, ns, func() {
		addTun(t, "tun7")
		wantDetails(t, byName(t, interfaceFindings("tun7")), map[string]string{
			"driver":     "tun",
			"link layer": "none, no Ethernet header: only mode tc",
			"native xdp": "not on an interface without an Ethernet header; mode tc is used",
		})
		wantDetails(t, byName(t, interfaceFindings("lo")), map[string]string{
			"interface": "lo, index 1, up",
			"driver":    "none named (device)",
		})
	})
}

// addTun makes a persistent tun in the caller's namespace, which takes it away, and sets it up.
func addTun(t *testing.T, name string) {
	t.Helper()
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TUN}
	if err := netlink.LinkAdd(tun); err != nil {
		t.Fatalf("add tun: %v", err)
	}
	for _, fd := range tun.Fds {
		_ = fd.Close()
	}
	if err := netlink.LinkSetUp(tun); err != nil {
		t.Fatalf("set tun up: %v", err)
	}
}

func TestDoctorOfNoInterface(t *testing.T) {
	ns := pair(t)
	inside(t, ns, func() {
		got := interfaceFindings("eth7")
		want := Finding{
			Name:   "interface",
			Detail: `there is no "eth7" in this network namespace`,
			Fix:    "here are: lo, v0",
		}
		if len(got) != 1 || got[0] != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

// tiny loads a program that passes everything and closes it with the test.
func tiny(t *testing.T, name string, kind ebpf.ProgramType) *ebpf.Program {
	t.Helper()
	spec := &ebpf.ProgramSpec{Name: name, Type: kind, Instructions: passAll(), License: "Dual BSD/GPL"}
	prog, err := ebpf.NewProgram(spec)
	if err != nil {
		t.Fatalf("load %s: %v", name, err)
	}
	t.Cleanup(func() { prog.Close() })
	return prog
}

func linkOf(t *testing.T, ifname string) netlink.Link {
	t.Helper()
	nl, err := netlink.LinkByName(ifname)
	if err != nil {
		t.Fatal(err)
	}
	return nl
}

func TestDoctorNamesXDPProgram(t *testing.T) {
	ns := pair(t)
	for _, c := range []struct {
		name string
		ours bool
	}{{"stranger", false}, {limiterProgSynwardXdp, true}} {
		prog := tiny(t, c.name, ebpf.XDP)
		inside(t, ns, func() {
			l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: linkOf(t, "v0").Attrs().Index})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			f := byName(t, interfaceFindings("v0"))["xdp program"]
			if f.OK != c.ours || !strings.Contains(f.Detail, "name "+c.name+", tag ") {
				t.Errorf("%s: %+v", c.name, f)
			}
			if !c.ours && !strings.Contains(f.Fix, "synward attach v0 --mode tc") {
				t.Errorf("fix: %q", f.Fix)
			}
			if got := runsLimiter(linkOf(t, "v0")); got != c.ours {
				t.Errorf("%s: runs the limiter: %v", c.name, got)
			}
		})
	}
}

func TestDoctorNamesTCPrograms(t *testing.T) {
	ns := pair(t)
	first, second := tiny(t, "filter", ebpf.SchedCLS), tiny(t, limiterProgSynwardTc, ebpf.SchedCLS)
	inside(t, ns, func() {
		nl := linkOf(t, "v0")
		addStranger(t, nl, first)
		f := byName(t, interfaceFindings("v0"))["tc programs"]
		if !f.OK || !strings.HasPrefix(f.Detail, "clsact: id ") || !strings.Contains(f.Detail, "name filter, tag ") {
			t.Errorf("clsact: %+v", f)
		}
		if runsLimiter(nl) {
			t.Error("a stranger's filter is taken for ours")
		}
		if _, err := addFilter(nl, hookClsact, second); err != nil {
			t.Fatal(err)
		}
		if !runsLimiter(nl) {
			t.Error("our clsact filter is not known")
		}
	})
}

// addStranger puts a filter of someone else at TC ingress.
func addStranger(t *testing.T, nl netlink.Link, prog *ebpf.Program) {
	t.Helper()
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: nl.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil {
		t.Fatalf("add clsact: %v", err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: nl.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS,
			Handle: 7, Protocol: unix.ETH_P_ALL, Priority: 7,
		},
		Fd: prog.FD(), Name: "stranger", DirectAction: true,
	}
	if err := netlink.FilterAdd(filter); err != nil {
		t.Fatalf("add filter: %v", err)
	}
}

// Where the kernel has tcx its programs are listed; Doctor itself says where it has not.
func TestDoctorNamesTCXPrograms(t *testing.T) {
	if err := haveTCX(); errors.Is(err, ebpf.ErrNotSupported) {
		t.Log("this kernel is older than 6.6: no tcx to list")
		return
	}
	ns := pair(t)
	prog := tiny(t, limiterProgSynwardTc, ebpf.SchedCLS)
	inside(t, ns, func() {
		nl := linkOf(t, "v0")
		l, err := link.AttachTCX(link.TCXOptions{
			Program: prog, Interface: nl.Attrs().Index, Attach: ebpf.AttachTCXIngress,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f := byName(t, interfaceFindings("v0"))["tc programs"]
		if !f.OK || !strings.HasPrefix(f.Detail, "tcx: id ") || !strings.Contains(f.Detail, "name synward_tc, tag ") {
			t.Errorf("tcx: %+v", f)
		}
		if !runsLimiter(nl) {
			t.Error("our tcx program is not known")
		}
	})
}
