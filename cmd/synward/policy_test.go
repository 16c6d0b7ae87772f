// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

const twoServices = `version: 1
sets: {office: [{file: office.txt}]}
services:
  - {name: web, listen: [443/tcp], limits: [{per: source, new: 50/s}]}
  - {name: ssh, listen: [22/tcp], allow: [office], limits: [{per: source, new: 3/min, strict: true}]}
`

// write makes a directory with a policy file and the list that it names.
func write(t *testing.T, text string) (file string) {
	t.Helper()
	dir := t.TempDir()
	file = filepath.Join(dir, "policy.yaml")
	for name, content := range map[string]string{"policy.yaml": text, "office.txt": "192.0.2.0/24\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

const (
	addedWeb  = "+ service web\n+ service web listen 443/tcp\n+ service web limit 1: new 50/s burst 50"
	addedSSH  = "+ service ssh\n+ service ssh listen 22/tcp\n+ service ssh allow office\n+ service ssh limit 1: new 3/min burst 1 strict"
	allOfFile = "+ set office\n+ set office 192.0.2.0/24\n- service default\n" + addedSSH + "\n" + addedWeb
	inForce2  = "policy: generation 2, enforce: 2 services, 2 limits"
)

func TestApply(t *testing.T) {
	f := newFake()
	file := write(t, twoServices)
	got := runWith(t, f, "apply", "-f", file, "--diff")
	expect(t, got, exitOK)
	if got.stdout != allOfFile+"\n" || f.changes != 0 {
		t.Errorf("--diff makes %d changes and writes\n%s", f.changes, got.stdout)
	}
	expect(t, runWith(t, f, "apply", "-f", file), exitOK, allOfFile, inForce2)
	expect(t, runWith(t, f, "apply", "-f", file), exitOK, "already so, nothing changed", inForce2)
	expect(t, runWith(t, f, "apply", "-f", file, "--confirm", "60s"), exitOK, "already so, nothing changed", inForce2)
	if got := runWith(t, f, "apply", "-f", file, "--diff"); got.stdout != "" {
		t.Errorf("no difference is shown as\n%s", got.stdout)
	}
	if f.changes != 1 || f.policy.Pending != nil {
		t.Errorf("after %d changes, pending %v", f.changes, f.policy.Pending)
	}
	// What is shown is the same again, by standard input too.
	shown := runWith(t, f, "policy")
	expect(t, shown, exitOK)
	stdin := func(e *env) { e.stdin = strings.NewReader(shown.stdout) }
	expect(t, runIn(t, f, stdin, "apply", "-f", "-"), exitOK, "already so, nothing changed", inForce2)
}

func TestApplyRefusesBadFiles(t *testing.T) {
	f := newFake()
	bad := write(t, "version: 1\nservices:\n  - {name: web, listen: [443/tcp], limit: []}\n")
	for _, args := range [][]string{{"apply"}, {"apply", "--diff"}, {"attach", "eth0"}} {
		got := runWith(t, f, append(args, "-f", bad)...)
		expect(t, got, exitUsage, "synward: "+bad+`:3:36: there is no field "limit" here (did you mean "limits"?); the fields are: `+
			"name, listen, allow, limits", "  - {name: web, listen: [443/tcp], limit: []}", strings.Repeat(" ", 35)+"^")
	}
	expect(t, runWith(t, f, "apply", "-f", bad+"2"), exitUsage,
		"synward: read policy: open "+bad+"2: no such file or directory")
	if len(f.dirs) != 0 {
		t.Errorf("a bad file opened %v", f.dirs)
	}
}

func TestConfirm(t *testing.T) {
	f := newFake()
	file := write(t, twoServices)
	const waits = "rolls back to generation 1 in 1m30s unless confirmed (applied by ann)"
	expect(t, runWith(t, f, "--pin-dir", "/bpf/two", "apply", "-f", file, "--confirm", "90s"), exitOK, allOfFile, inForce2,
		waits+"; to keep it: synward --pin-dir /bpf/two confirm; to go back now: synward --pin-dir /bpf/two rollback")
	if got := runWith(t, f, "policy"); got.stderr != waits+"\n" {
		t.Errorf("policy says %q", got.stderr)
	}
	for _, line := range []string{"apply -f " + file, "apply -f " + write(t, "version: 1\n"), "limit web --new 5/s"} {
		expect(t, runWith(t, f, strings.Fields(line)...), exitRefused, "synward: a policy that ann applied waits: refused")
	}
	f.attached[0].Unconfirmed = true
	expect(t, runWith(t, f, "confirm"), exitOK, "eth0: confirmed, it stays", "generation 2: confirmed, it stays", inForce2)
	expect(t, runWith(t, f, "confirm"), exitFailed,
		"synward: nothing waits for a confirmation; in force is generation 2, applied by ann 1m ago")
	for _, c := range []struct{ time, want string }{
		{"60", `invalid duration "60": write it as in 90s, 10m, 12h or 7d`},
		{"10ms", "--confirm 10ms is too short; use at least 1s"},
	} {
		expect(t, runWith(t, f, "apply", "-f", file, "--confirm", c.time), exitUsage, "synward: "+c.want)
		expect(t, runWith(t, f, "attach", "eth0", "--confirm", c.time), exitUsage, "synward: "+c.want)
	}
}

func TestRollback(t *testing.T) {
	f := newFake()
	expect(t, runWith(t, f, "limit", "default", "--new", "50/s"), exitOK, "limit: 50/s per source, burst 50 (at most 100 in any second)")
	expect(t, runWith(t, f, "apply", "-f", write(t, twoServices)), exitOK,
		allOfFile, "policy: generation 3, enforce: 2 services, 2 limits")
	got := runWith(t, f, "rollback")
	if got.code != exitOK || !strings.HasSuffix(got.stderr, "limit: 50/s per source, burst 50 (at most 100 in any second)\n") ||
		!strings.Contains(got.stderr, "- service web\n") {
		t.Errorf("%+v", got)
	}
	expect(t, runWith(t, f, "rollback", "9"), exitUsage, "synward: invalid: there are only 3")
	for _, n := range []string{"0", "one", "-1"} {
		if got := runWith(t, f, "rollback", "--", n); got.code != exitUsage {
			t.Errorf("rollback %s: %+v", n, got)
		}
	}
	if got := runWith(t, f, "policy", "--list"); !strings.Contains(got.stdout, "\nin force  4 ") || !strings.Contains(got.stdout, "\n1         3 ") {
		t.Errorf("the policies are\n%s", got.stdout)
	}
	if got := runWith(t, f, "policy", "--list", "-o", "json"); !strings.Contains(got.stdout, `"in_force": true`) {
		t.Errorf("the policies are\n%s", got.stdout)
	}
	expect(t, runWith(t, f, "policy", "--list", "-o", "yaml"), exitUsage, "synward: --list writes a table, or -o json")
}

func TestServices(t *testing.T) {
	f := newFake()
	expect(t, runWith(t, f, "services"), exitOK, "the policy has no services")
	f.services = []datapath.ServiceState{{Name: "web", Admitted: datapath.Counter{Packets: 7}}}
	for format, want := range map[string]string{"text": "web              7         -     none\n", "json": `"packets": 7`} {
		if got := runWith(t, f, "services", "-o", format); got.code != exitOK || !strings.Contains(got.stdout, want) {
			t.Errorf("-o %s: %+v", format, got)
		}
	}
	f.policy.Policy = policy.Default(nil)
	if got := runWith(t, f, "__complete", "limit", ""); !strings.HasPrefix(got.stdout, "default\n") {
		t.Errorf("services are completed as %q", got.stdout)
	}
}

// operator is somebody who is logged in.
func operator(addr string, own bool) datapath.Operator {
	return datapath.Operator{
		Peer: netip.AddrPortFrom(netip.MustParseAddr(addr), 50000), Local: netip.MustParseAddrPort("10.0.0.1:22"), Own: own, Who: "ann@pts/0",
	}
}

// What would lock out somebody who is logged in is refused, and named with the ways on.
func TestLockout(t *testing.T) {
	const ways = "; go on with --force, or first: synward allow add 192.0.2.7"
	blocks := write(t, "version: 1\nblock: [192.0.2.0/24]\n")
	for _, c := range []struct{ line, why string }{
		{"block add 192.0.2.0/24 198.51.100.1", "blocked by 192.0.2.0/24" + ways},
		{"limit default --new 1/min --burst 1", "service default, limit 1: new 1/min burst 1" + ways},
		{"apply -f " + blocks, "block has 192.0.2.0/24" + ways},
		{"apply --confirm 60s -f " + blocks, "block has 192.0.2.0/24" + ways},
		{"attach eth0 --new 1/h", "service default, limit 1: new 1/h burst 1" + ways},
		{"attach eth0 -f " + blocks, "block has 192.0.2.0/24" + ways},
		{"rollback", "block has 192.0.2.0/24" + ways},
	} {
		f := newFake()
		f.result = &datapath.AttachResult{Interface: datapath.Interface{Name: "eth0", Armed: true}}
		f.operators = []datapath.Operator{operator("192.0.2.7", true)}
		before, err := policy.Parse("before", []byte("version: 1\nblock: [192.0.2.0/24]\n"), nil)
		if err != nil {
			t.Fatal(err)
		}
		f.kept = []datapath.Applied{{Policy: before}}
		args := strings.Fields(c.line)
		expect(t, runWith(t, f, args...), exitRefused,
			"synward: refused: this would lock out 192.0.2.7 (your own SSH session, to port 22): "+c.why)
		if f.changes != 0 || f.opts.Interface != "" {
			t.Errorf("%s: changed something", c.line)
		}
		if got := runWith(t, f, append(args, "--force")...); got.code != exitOK {
			t.Errorf("%s --force: %+v", c.line, got)
		}
		f.policy.Policy, f.policy.Pending = policy.Default(nil), nil
		f.lists[datapath.Allow] = []datapath.Entry{{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Origin: "operator"}}
		f.lists[datapath.Block] = nil
		if got := runWith(t, f, args...); got.code != exitOK {
			t.Errorf("%s, allowed: %+v", c.line, got)
		}
	}
}

// Where nothing is attached yet, the allow list is reached by an attach that limits nothing.
func TestLockoutBeforeTheFirstAttach(t *testing.T) {
	f := newFake()
	f.attached, f.operators = nil, []datapath.Operator{operator("192.0.2.7", false)}
	expect(t, runWith(t, f, "--pin-dir", "/bpf/two", "attach", "eth0", "--new", "1/h"), exitRefused,
		"synward: refused: this would lock out 192.0.2.7 (SSH session of ann@pts/0, to port 22): service default, limit 1: new 1/h "+
			"burst 1; go on with --force, or first: synward --pin-dir /bpf/two attach eth0, synward --pin-dir /bpf/two allow add 192.0.2.7")
}

// What a policy allows ends with it; what it blocks by hand comes to light with it.
func TestLockoutByWhatAPolicyNoLongerAllows(t *testing.T) {
	f := newFake()
	f.operators = []datapath.Operator{operator("192.0.2.7", true)}
	f.lists[datapath.Allow] = []datapath.Entry{{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Origin: "policy"}}
	file := write(t, "version: 1\nblock: [192.0.2.0/24]\n")
	if got := runWith(t, f, "apply", "-f", file); got.code != exitRefused {
		t.Errorf("%+v", got)
	}
	f.lists[datapath.Block] = []datapath.Entry{{Prefix: netip.MustParsePrefix("192.0.2.0/25"), Origin: "operator"}}
	got := runWith(t, f, "apply", "-f", write(t, twoServices))
	if got.code != exitRefused || !strings.Contains(got.stderr, "blocked by 192.0.2.0/25; ") {
		t.Errorf("%+v", got)
	}
	expect(t, runWith(t, f, "apply", "-f", write(t, "version: 1\nallow: [192.0.2.7]\n")), exitOK,
		"- service default\n+ allow 192.0.2.7", "policy: generation 2, enforce: 0 services, 0 limits")
}

func TestLockoutByDisallowing(t *testing.T) {
	f := newFake()
	f.operators = []datapath.Operator{operator("192.0.2.7", true)}
	f.policy.Policy = policy.Default(&policy.NewLimit{Rate: policy.Rate{Count: 1, Period: time.Hour}, Burst: 1})
	f.lists[datapath.Allow] = []datapath.Entry{
		{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Origin: "operator"},
		{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Origin: "operator"},
	}
	expect(t, runWith(t, f, "allow", "rm", "192.0.2.7", "192.0.2.0/24"), exitRefused,
		"synward: refused: this would lock out 192.0.2.7 (your own SSH session, to port 22): service default, limit 1: new 1/h burst 1; "+
			"go on with --force")
	expect(t, runWith(t, f, "allow", "rm", "198.51.100.1"), exitOK, "198.51.100.1: not on the allow list, nothing changed")
	expect(t, runWith(t, f, "allow", "rm", "192.0.2.0/24"), exitOK, "192.0.2.0/24: off the allow list")
	if got := runWith(t, f, "allow", "rm", "192.0.2.7"); got.code != exitRefused {
		t.Errorf("%+v", got)
	}
	expect(t, runWith(t, f, "allow", "rm", "192.0.2.7", "--force"), exitOK, "192.0.2.7: off the allow list")
}

// Operators of other network namespaces are not reached by this one's interfaces; those that cannot be found
// are no reason to stop.
func TestOperatorsElsewhere(t *testing.T) {
	f := newFake()
	elsewhere := operator("192.0.2.7", false)
	elsewhere.Netns = "blue"
	f.operators, f.operErr = []datapath.Operator{elsewhere}, errors.New("find operators: no /proc")
	expect(t, runWith(t, f, "block", "add", "192.0.2.7"), exitOK,
		"warning: not all whom no block may cover could be found, and who is missing is not kept from being blocked: find operators: no /proc",
		"192.0.2.7: on the block list, expires never")
}

// An attach that changes nothing locks nobody out who was not.
func TestAttachAgainIsNotGuarded(t *testing.T) {
	f := newFake()
	f.operators = []datapath.Operator{operator("192.0.2.7", true)}
	f.policy.Policy = policy.Default(&policy.NewLimit{Rate: policy.Rate{Count: 1, Period: time.Hour}, Burst: 1})
	f.result = &datapath.AttachResult{Interface: datapath.Interface{Name: "eth0", Armed: true}, Unchanged: true}
	if got := runWith(t, f, "attach", "eth0"); got.code != exitOK {
		t.Errorf("%+v", got)
	}
	if got := runWith(t, f, "attach", "eth1"); got.code != exitRefused {
		t.Errorf("%+v", got)
	}
}

// A list command does not undo what the policy says, and does not say that it did.
func TestRemoveWhatThePolicyNames(t *testing.T) {
	f := newFake()
	f.lists[datapath.Block] = []datapath.Entry{
		{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Origin: "policy"},
		{Prefix: netip.MustParsePrefix("198.51.100.1/32"), Origin: "operator"},
	}
	expect(t, runWith(t, f, "block", "rm", "192.0.2.0/24", "198.51.100.1"), exitFailed,
		"1 of 2 prefixes: what was added by hand is off the block list",
		"synward: 192.0.2.0/24 is on the block list by the policy in force; to change that, apply a policy without it")
	expect(t, runWith(t, f, "block", "rm", "192.0.2.1"), exitOK, "192.0.2.1: not on the block list, nothing changed",
		"note: 192.0.2.1 is still blocked by 192.0.2.0/24 of the policy; to change that: apply a policy without it")
	f.lists[datapath.Allow] = []datapath.Entry{{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Origin: "policy"}}
	expect(t, runWith(t, f, "block", "add", "203.0.113.1"), exitOK, "203.0.113.1: on the block list, expires never",
		"note: 203.0.113.1 is on the allow list by 203.0.113.0/24 of the policy, and allow wins; to change that: apply a policy without it")
}

func TestAttachWithAPolicy(t *testing.T) {
	f := newFake()
	f.result = &datapath.AttachResult{Interface: datapath.Interface{
		Name: "eth0", Mode: datapath.ModeTC, Armed: true, Unconfirmed: true, Left: time.Minute,
	}}
	got := runWith(t, f, "attach", "eth0", "-f", write(t, twoServices), "--confirm", "60s")
	expect(t, got, exitOK, "eth0: attached: TC (ingress)",
		"eth0: refuses nothing any more in 1m unless confirmed; to keep it: synward confirm",
		"policy: generation 1, enforce: 2 services, 2 limits")
	if f.opts.Confirm != time.Minute || f.opts.By != "ann" || len(f.opts.Policy.Services) != 2 {
		t.Errorf("attached with %+v", f.opts)
	}
	for _, flags := range []string{"--new 5/s", "--burst 5"} {
		expect(t, runWith(t, f, append(strings.Fields("attach eth0 -f x "), strings.Fields(flags)...)...), exitUsage,
			"synward: give -f FILE or limits, not both; a limit can be changed later: synward limit SERVICE --new RATE")
	}
}
