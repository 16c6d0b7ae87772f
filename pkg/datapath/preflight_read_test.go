// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bufio"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/synward/synward/pkg/internal/testenv"
)

func wantWarnings(t *testing.T, ns *testenv.Namespace, ifname string, want ...string) {
	t.Helper()
	inside(t, ns, func() {
		t.Helper()
		got := preflight(linkOf(t, ifname), ModeAuto)
		if len(got) != len(want) {
			t.Fatalf("got %d warnings, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
		}
		for i, w := range want {
			if !strings.HasPrefix(got[i], w) {
				t.Errorf("got  %s\nwant %s...", got[i], w)
			}
		}
	})
}

func TestPreflightOfPlainVethIsSilent(t *testing.T) {
	ns := pair(t)
	for _, mode := range []Mode{ModeAuto, ModeNative, ModeTC, ModeGeneric} {
		inside(t, ns, func() {
			if got := preflight(linkOf(t, "v0"), mode); len(got) != 0 {
				t.Errorf("%s: %q", mode, got)
			}
		})
	}
}

func TestPreflightOfWhatIsDownOrAPort(t *testing.T) {
	ns, far := testenv.NewNamespace(t, "near"), testenv.NewNamespace(t, "far")
	testenv.Veth(t, ns, "v0", far, "v1")
	wantWarnings(t, ns, "v0", "v0 is down")

	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := ns.Netlink().LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	inside(t, ns, func() {
		if err := netlink.LinkSetMaster(linkOf(t, "v0"), bridge); err != nil {
			t.Fatal(err)
		}
	})
	wantWarnings(t, ns, "v0", "v0 is down", "v0 is a port of bridge br0")
}

// twoWays is a namespace with v0 and w0, both up, and the default route by w0.
func twoWays(t *testing.T) *testenv.Namespace {
	t.Helper()
	ns := pair(t)
	far := testenv.NewNamespace(t, "other")
	testenv.Veth(t, ns, "w0", far, "w1")
	for _, err := range []error{
		far.LinkUp("w1"), ns.LinkUp("w0"),
		ns.AddAddr("v0", "192.0.2.1/24"), ns.AddAddr("w0", "198.51.100.1/24"),
		ns.AddRoute("w0", netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.51.100.2")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return ns
}

func TestPreflightOfTheDefaultRouteElsewhere(t *testing.T) {
	ns := twoWays(t)
	wantWarnings(t, ns, "v0", "the default route uses w0, not v0")
	wantWarnings(t, ns, "w0")
}

// What comes in by a macvlan comes in by its parent first.
func TestPreflightOfTheDefaultRouteOnTop(t *testing.T) {
	ns := pair(t)
	inside(t, ns, func() {
		parent := linkOf(t, "v0").Attrs().Index
		top := &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "m0", ParentIndex: parent}, Mode: netlink.MACVLAN_MODE_BRIDGE}
		if err := netlink.LinkAdd(top); err != nil {
			t.Fatal(err)
		}
	})
	for _, err := range []error{
		ns.LinkUp("m0"), ns.AddAddr("m0", "198.51.100.1/24"),
		ns.AddRoute("m0", netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.51.100.2")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(sshVariable, "203.0.113.9 50000 198.51.100.1 22")
	wantWarnings(t, ns, "v0")
}

// An interface that the limiter is on already needs no mention.
func TestPreflightKnowsWhatIsLimited(t *testing.T) {
	ns := twoWays(t)
	prog := tiny(t, limiterProgSynwardXdp, ebpf.XDP)
	inside(t, ns, func() {
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: linkOf(t, "w0").Attrs().Index})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	})
	wantWarnings(t, ns, "v0")
}

func TestPreflightOfTheOperatorsSession(t *testing.T) {
	ns := twoWays(t)
	const session = "your SSH session comes in by v0, not w0"
	t.Setenv(sshVariable, "203.0.113.9 50000 192.0.2.1 22")
	wantWarnings(t, ns, "w0", session)
	wantWarnings(t, ns, "v0", "the default route uses w0, not v0")
}

func TestSSHInterface(t *testing.T) {
	ns := twoWays(t)
	if err := ns.AddAddr("lo", "192.0.2.99/32"); err != nil {
		t.Fatal(err)
	}
	if err := ns.AddAddr("v0", "2001:db8::1/64"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, connection, want string }{
		{"address of an interface", "203.0.113.9 50000 192.0.2.1 22", "v0"},
		{"mapped into IPv6", "::ffff:203.0.113.9 50000 ::ffff:198.51.100.1 22", "w0"},
		{"IPv6", "2001:db8:9::9 50000 2001:db8::1 22", "v0"},
		{"address of lo: by the route back", "203.0.113.9 50000 192.0.2.99 22", "w0"},
		{"from this host", "127.0.0.1 50000 127.0.0.1 22", ""},
		{"address of another namespace", "203.0.113.9 50000 203.0.113.1 22", ""},
		{"none", "", ""},
		{"not addresses", "a b c d", ""},
		{"too short", "203.0.113.9 50000 192.0.2.1", ""},
	} {
		inside(t, ns, func() {
			got := ""
			if index := sshInterface(c.connection); index != 0 {
				nl, err := netlink.LinkByIndex(index)
				if err != nil {
					t.Fatal(err)
				}
				got = nl.Attrs().Name
			}
			if got != c.want {
				t.Errorf("%s: %q, want %q", c.name, got, c.want)
			}
		})
	}
}

// sudo takes the variable away; the shell above it still has it.
func TestSSHOfAnAncestor(t *testing.T) {
	const connection = "203.0.113.9 50000 192.0.2.1 22"
	cmd := exec.Command("sh", "-c", `env -u SSH_CONNECTION sh -c 'echo $$; read -r line'; :`)
	cmd.Env = append(os.Environ(), sshVariable+"="+connection)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if got := environ(pid, sshVariable); got != "" {
		t.Errorf("the process itself has %q", got)
	}
	if got := ancestorSSH(pid); got != connection {
		t.Errorf("its ancestors have %q, want %q", got, connection)
	}
	if got := parentPID(os.Getpid()); got != os.Getppid() {
		t.Errorf("parent of this process is %d, want %d", got, os.Getppid())
	}
}

func TestPreflightNamesTunnels(t *testing.T) {
	ns := pair(t)
	inside(t, ns, func() {
		addTun(t, "tun7")
		vxlan := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx7"}, VxlanId: 7, Port: 4789}
		if err := netlink.LinkAdd(vxlan); err != nil {
			t.Fatal(err)
		}
	})
	const tail = " is judged only if you attach there too: synward attach tun7"
	wantWarnings(t, ns, "v0", "what comes in through tun7"+tail)
	if err := ns.LinkUp("vx7"); err != nil {
		t.Fatal(err)
	}
	wantWarnings(t, ns, "v0", "what comes in through tun7, vx7"+tail)
}

func TestEthtoolOfVeth(t *testing.T) {
	ns := pair(t)
	inside(t, ns, func() {
		if got := ethtoolDriver("v0"); got != "veth" {
			t.Errorf("driver %q", got)
		}
		if flags, err := ethtoolFlags("v0"); err != nil || flags&ethFlagLRO != 0 {
			t.Errorf("offloads %#x, %v", flags, err)
		}
		if _, err := ethtoolFlags("nothing"); err == nil {
			t.Error("offloads of an interface that is not there")
		}
		if _, err := ethtoolFlags("a-name-that-is-too-long"); err == nil {
			t.Error("offloads of a name that is too long")
		}
		if got := ethtoolDriver("nothing"); got != "" {
			t.Errorf("driver of nothing: %q", got)
		}
	})
}
