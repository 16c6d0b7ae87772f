// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// inner is a container's namespace behind the server, which forwards to it and rewrites port 8080 to its port 80.
func (b connBench) inner() (ns *testenv.Namespace, addr netip.Addr) {
	b.t.Helper()
	nft := testenv.Tool(b.t, "nft")
	ns = testenv.NewNamespace(b.t, "inner")
	testenv.Veth(b.t, b.Server, "br0", ns, "eth0")
	outer, inside := netip.MustParsePrefix("10.88.0.1/24"), netip.MustParsePrefix("10.88.0.2/24")
	for _, step := range []func() error{
		func() error { return b.Server.LinkUp("br0") },
		func() error { return ns.LinkUp("eth0") },
		func() error { return b.Server.AddAddrs("br0", outer) },
		func() error { return ns.AddAddrs("eth0", inside) },
		func() error { return ns.AddRoute("eth0", netip.MustParsePrefix("10.77.0.0/16"), outer.Addr()) },
		func() error { return b.Server.SetSysctl("net/ipv4/ip_forward", "1") },
	} {
		if err := step(); err != nil {
			b.t.Fatal(err)
		}
	}
	cmd := b.Server.Command(nft, "-f", "-")
	cmd.Stdin = strings.NewReader("table ip nat {\n chain pre {\n type nat hook prerouting priority -100;\n" +
		" tcp dport 8080 dnat to 10.88.0.2:80\n }\n}\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("nft: %v: %s", err, out)
	}
	return ns, inside.Addr()
}

// childCgroup makes a cgroup below the root of cgroup v2.
func childCgroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(mounts) {
		if f := strings.Fields(string(line)); f[2] == "cgroup2" {
			dir := filepath.Join(f[1], "synward-test-"+strconv.Itoa(os.Getpid()))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				testenv.WaitFor(t, connsDeadline, "the cgroup to be empty", func() bool { return os.Remove(dir) == nil })
			})
			return dir
		}
	}
	t.Fatal("no cgroup v2 is mounted")
	return ""
}

// A server in a child cgroup and another network namespace, behind DNAT from 8080 to 80, is counted under 8080 and
// not under 80; also when the last ACK comes long after its SYN.
func TestConcurrentBehindDNAT(t *testing.T) {
	b := connBench{newBench(t, testenv.PairOptions{})}
	ns, addr := b.inner()
	cgroup := childCgroup(t)
	b.processIn(ns, "serve "+netip.AddrPortFrom(addr, 80).String(), cgroup)
	b.attach(datapath.ModeAuto, nil)
	b.apply(`
version: 1
services:
  - {name: outside, listen: [8080/tcp], limits: [{per: source, concurrent: 5}]}
  - {name: decoy, listen: [80/tcp], limits: [{per: source, concurrent: 2}]}
`)
	at := netip.AddrPortFrom(b.ServerIP4, 8080)
	b.dialUntil(at)
	open := b.openSome(at, 8)
	b.mustCountAt("outside", b.ClientIP4, 5)
	testenv.WaitFor(t, connsDeadline, "the others to be refused", func() bool {
		return b.packets("over_concurrent")+b.tallies().Refused >= 8
	})
	b.mustCountAt("outside", b.ClientIP4, 5)
	b.mustCountAt("decoy", b.ClientIP4, 0)
	c := b.craft("10.77.9.9")
	var flows []craftFlow
	for n := range uint16(9) {
		flows = append(flows, craftFlow{20000 + n, 8080})
	}
	c.halfOpen(flows, 3)
	for range 2 {
		for _, f := range flows {
			c.send(f, 0x10)
		}
	}
	b.mustCountAt("outside", c.src, 5)
	b.mustCountAt("decoy", c.src, 0)
	open.abort()
	for _, f := range flows {
		c.send(f, 0x14)
	}
	b.mustCountAt("outside", c.src, 0)
}
