// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

func rate50(burst uint64) *policy.NewLimit {
	return &policy.NewLimit{Rate: policy.Rate{Count: 50, Period: time.Second}, Burst: burst}
}

// expect compares the exit code and the whole of stderr.
func expect(t *testing.T, got outcome, code int, stderr ...string) {
	t.Helper()
	want := ""
	for _, line := range stderr {
		want += line + "\n"
	}
	if got.code != code || got.stderr != want {
		t.Errorf("exit code %d, want %d; stderr:\n%swant:\n%s", got.code, code, got.stderr, want)
	}
}

func TestAttach(t *testing.T) {
	f := newFake()
	f.result = &datapath.AttachResult{
		Interface: datapath.Interface{Name: "eth0", Mode: datapath.ModeTC, Armed: true},
		Refused:   []datapath.Attempt{{Mode: datapath.ModeNative, Err: errors.New("no support\nin this driver")}},
		Warnings:  []string{"LRO is on: ethtool -K eth0 lro off"},
	}
	expect(t, runWith(t, f, "attach", "eth0", "--new", "50/s", "--burst", "100"), exitOK,
		"eth0: attached: TC (ingress)",
		"eth0: not native: no support; in this driver",
		"warning: LRO is on: ethtool -K eth0 lro off",
		"limit: 50/s per source, burst 100 (at most 150 in any second)")
	if f.opts.Mode != datapath.ModeAuto || *f.opts.Limit != *rate50(100) || f.opts.PinDir != datapath.DefaultPinDir {
		t.Errorf("attached with %+v", f.opts)
	}
	f.result.Refused, f.result.Warnings, f.result.Unchanged = nil, nil, true
	expect(t, runWith(t, f, "attach", "eth0", "--mode", "tc"), exitOK,
		"eth0: already attached, nothing changed: TC (ingress)",
		"limit: 50/s per source, burst 100 (at most 150 in any second)")
	if f.opts.Mode != datapath.ModeTC || f.opts.Limit != nil {
		t.Errorf("attached with %+v", f.opts)
	}
	f.result.Unchanged, f.result.Mended = false, true
	f.result.Interface.Armed, f.result.Interface.Why = false, "the self test failed"
	expect(t, runWith(t, f, "attach", "eth0"), exitPartly,
		"eth0: attached again after its link was lost: TC (ingress)",
		"limit: 50/s per source, burst 100 (at most 150 in any second)",
		"eth0 is not armed: the self test failed")
}

func TestErrorsHaveTheirExitCode(t *testing.T) {
	for want, err := range map[int]error{
		exitFailed:      errors.New("load program: no\nsuch helper\n"),
		exitUsage:       fmt.Errorf("interface eth9: not found: %w", datapath.ErrInvalid),
		exitNotAttached: datapath.ErrNotAttached,
		exitRefused:     fmt.Errorf("another program is on eth0: %w", datapath.ErrRefused),
	} {
		f := newFake()
		f.err = err
		got := runWith(t, f, "attach", "eth0")
		expect(t, got, want, "synward: "+oneLine(err))
	}
	f := newFake()
	f.err = fmt.Errorf("%w: %w", datapath.ErrUnsupported, datapath.ErrFull)
	expect(t, runWith(t, f, "status"), exitFailed, "synward: not supported here: full")
}

func TestDetach(t *testing.T) {
	f := newFake()
	expect(t, runWith(t, f, "detach", "eth0"), exitOK, "eth0: detached")
	expect(t, runWith(t, f, "detach", "eth7"), exitOK, "eth7: was not attached, nothing changed")
	expect(t, runWith(t, f, "detach", "--all"), exitOK, "eth0: detached")
	f.attached = nil
	expect(t, runWith(t, f, "detach", "--all"), exitOK, "nothing was attached, nothing changed")
	f.err = datapath.ErrNotAttached
	expect(t, runWith(t, f, "detach", "eth0"), exitOK, "eth0: was not attached, nothing changed")
	f.err = errors.New("unlink pin: busy")
	expect(t, runWith(t, f, "detach", "eth0"), exitFailed, "synward: unlink pin: busy")
}

func TestStatus(t *testing.T) {
	f := newFake()
	for _, args := range [][]string{nil, {"status"}, {"-o", "json"}, {"status", "-o", "json"}} {
		got := runWith(t, f, args...)
		expect(t, got, exitOK)
		if !strings.Contains(got.stdout, "eth0") {
			t.Errorf("%v shows no interface:\n%s", args, got.stdout)
		}
	}
	f.attached[0].Traffic = datapath.TrafficNone
	expect(t, runWith(t, f, "status"), exitPartly)
	f.attached[0].Traffic, f.attached[0].Armed = datapath.TrafficFlowing, false
	expect(t, runWith(t, f, "status", "-o", "json"), exitPartly)
	f.attached = nil
	expect(t, runWith(t, f, "status"), exitNotAttached, "synward: "+datapath.ErrNotAttached.Error()+"; attach first")
}

func TestLimit(t *testing.T) {
	f := newFake()
	const some, none = "limit: 50/s per source, burst ", "no limit: new connections are counted, none is refused"
	expect(t, runWith(t, f, "limit", "default", "--burst", "5"), exitUsage,
		"synward: invalid burst 5: service default has no limit of new connections per source whose rate it could keep; "+
			"give --new RATE too")
	expect(t, runWith(t, f, "limit", "web", "--burst", "5"), exitUsage,
		`synward: there is no service "web"; the only one is default`)
	expect(t, runWith(t, f, "limit", "default", "--new", "50/s"), exitOK, some+"50 (at most 100 in any second)")
	expect(t, runWith(t, f, "limit", "default", "--burst", "5"), exitOK, some+"5 (at most 55 in any second)")
	expect(t, runWith(t, f, "limit", "default", "--burst", "5"), exitOK,
		"already so, nothing changed", some+"5 (at most 55 in any second)")
	expect(t, runWith(t, f, "limit", "default", "--burst", "0"), exitUsage,
		"synward: invalid burst 0: it would refuse every new connection; use at least 1")
	if f.changes != 2 || !f.policy.Policy.Equal(policy.Default(rate50(5))) {
		t.Errorf("after %d changes the policy is\n%s", f.changes, f.policy.Policy.YAML())
	}
	for _, word := range []string{"off", "none"} {
		f.policy.Policy = policy.Default(rate50(5))
		expect(t, runWith(t, f, "limit", "default", "--new", word), exitOK, none)
		expect(t, runWith(t, f, "limit", "default", "--new", word), exitOK, "already so, nothing changed", none)
	}
}

func TestBlockAdd(t *testing.T) {
	f := newFake()
	expect(t, runWith(t, f, "block", "add", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::/32", "--for", "10m",
		"--reason", "scanner", "--scope", "new"), exitOK, "2 prefixes: on the block list, expires in 10m")
	want := datapath.Entry{
		Prefix: netip.MustParsePrefix("192.0.2.1/32"), Scope: datapath.ScopeNew, Expires: noon().Add(10 * time.Minute),
		Created: noon(), Origin: "operator", Reason: "scanner", By: "ann",
	}
	if got := f.lists[datapath.Block]; len(got) != 2 || got[0] != want {
		t.Errorf("the list is %+v, want first %+v", got, want)
	}
	expect(t, runWith(t, f, "block", "add", "192.0.2.9", "192.0.2.7/24"), exitUsage,
		`synward: invalid prefix "192.0.2.7/24": it has host bits set; use 192.0.2.0/24 for the network or 192.0.2.7 for the host`)
	for _, reason := range []string{"two\nlines", "\x1b[31m", strings.Repeat("x", 64)} {
		if got := runWith(t, f, "block", "add", "192.0.2.9", "--reason", reason); got.code != exitUsage {
			t.Errorf("the reason %q is taken: %+v", reason, got)
		}
	}
	if f.changes != 1 {
		t.Errorf("bad input made a change")
	}
	f.lists[datapath.Allow] = []datapath.Entry{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}
	expect(t, runWith(t, f, "block", "add", "10.1.1.1", "--pin-dir", "/bpf/two"), exitOK,
		"10.1.1.1: on the block list, expires never",
		"note: 10.1.1.1 is on the allow list by 10.0.0.0/8, and allow wins; to change that: "+
			"synward --pin-dir /bpf/two allow rm 10.0.0.0/8")
}

// --kill closes the sockets of whom the block covers: not of the allowed, nor of an operator who is not told to go.
func TestBlockKill(t *testing.T) {
	f := newFake()
	addr := netip.MustParseAddr
	all := []netip.Addr{addr("192.0.2.1"), addr("192.0.2.2"), addr("192.0.2.3"), addr("2001:db8::1"), addr("203.0.113.1")}
	f.peers = slices.Clone(all)
	f.closeErr = fmt.Errorf("this kernel cannot: %w", datapath.ErrUnsupported)
	expect(t, runWith(t, f, "block", "add", "192.0.2.1", "--kill"), exitFailed, "synward: this kernel cannot: not supported here")
	if f.changes != 0 || len(f.peers) != len(all) {
		t.Errorf("half done: %d changes, open %v", f.changes, f.peers)
	}
	f.closeErr = nil
	expect(t, runWith(t, f, "block", "add", "192.0.2.1"), exitOK, "192.0.2.1: on the block list, expires never")
	f.lists[datapath.Allow] = []datapath.Entry{{Prefix: netip.MustParsePrefix("192.0.2.2/32")}}
	expect(t, runWith(t, f, "block", "add", "192.0.2.0/24", "2001:db8::/32", "--kill"), exitOK,
		"2 prefixes: on the block list, expires never",
		"note: 192.0.2.0/24 contains 1 entry of the allow list, passed all the same, for allow wins: 192.0.2.2",
		"note: 192.0.2.0/24 contains 1 entry of the block list, still there: 192.0.2.1",
		"2 prefixes: closed 3 TCP and 0 UDP sockets")
	if want := []netip.Addr{addr("192.0.2.2"), addr("203.0.113.1")}; !slices.Equal(f.peers, want) {
		t.Errorf("open are %v, want %v", f.peers, want)
	}
	expect(t, runWith(t, f, "block", "add", "192.0.2.0/24", "--kill"), exitOK,
		"192.0.2.0/24: on the block list, expires never",
		"note: 192.0.2.0/24 contains 1 entry of the allow list, passed all the same, for allow wins: 192.0.2.2",
		"note: 192.0.2.0/24 contains 1 entry of the block list, still there: 192.0.2.1",
		"192.0.2.0/24: closed no socket, none was open")
	f.operators = []datapath.Operator{{Peer: netip.MustParseAddrPort("203.0.113.1:1022"), Netns: "elsewhere"}}
	expect(t, runWith(t, f, "block", "add", "203.0.113.0/24", "--kill"), exitOK, "203.0.113.0/24: on the block list, expires never",
		"203.0.113.0/24: closed no socket, none was open", "note: sockets of operators stay open; --force closes them")
	expect(t, runWith(t, f, "block", "add", "203.0.113.0/24", "--kill", "--force"), exitOK, "203.0.113.0/24: on the block list, expires never",
		"203.0.113.0/24: closed 1 TCP and 0 UDP sockets")
}

func TestRemoveWhatIsAbsentIsSuccess(t *testing.T) {
	f := newFake()
	expect(t, runWith(t, f, "whitelist", "add", "10.0.0.0/8", "192.0.2.1"), exitOK,
		"2 prefixes: on the allow list, expires never")
	expect(t, runWith(t, f, "allow", "rm", "10.0.0.0/8", "10.0.0.0/9"), exitOK,
		"1 of 2 prefixes: off the allow list; the others were not on it")
	expect(t, runWith(t, f, "allow", "rm", "10.0.0.0/8"), exitOK, "10.0.0.0/8: not on the allow list, nothing changed")
	f.lists[datapath.Allow] = append(f.lists[datapath.Allow], datapath.Entry{Prefix: netip.MustParsePrefix("192.0.2.0/24")})
	expect(t, runWith(t, f, "allow", "rm", "192.0.2.1"), exitOK,
		"192.0.2.1: off the allow list",
		"note: 192.0.2.1 is still allowed by 192.0.2.0/24; to change that: synward allow rm 192.0.2.0/24")
}

func TestList(t *testing.T) {
	f := newFake()
	expect(t, runWith(t, f, "block", "list"), exitOK, "the block list is empty")
	f.lists[datapath.Block] = []datapath.Entry{{Prefix: netip.MustParsePrefix("192.0.2.1/32")}}
	for format, want := range map[string]string{"text": "never", "json": `"expires": null`, "plain": "192.0.2.1\n"} {
		if got := runWith(t, f, "block", "list", "-o", format); got.code != 0 || !strings.Contains(got.stdout, want) {
			t.Errorf("-o %s: %+v", format, got)
		}
	}
	f.lists[datapath.Block] = append(f.lists[datapath.Block], datapath.Entry{Prefix: netip.MustParsePrefix("192.0.2.2/32"), Ban: &datapath.Ban{}})
	got := runWith(t, f, "block", "list", "-o", "plain")
	if want := "note: bans are left out, which end by themselves (1); -o text or json shows them\n"; got.stdout != "192.0.2.1\n" || got.stderr != want {
		t.Errorf("with a ban: %+v", got)
	}
}

func TestSources(t *testing.T) {
	f := newFake()
	expect(t, runWith(t, f, "sources"), exitOK, "no new connection has been seen")
	for i := range 30 {
		addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		f.sources = append(f.sources, datapath.Source{
			Prefix: netip.PrefixFrom(addr, 32), Service: "default", Refused: uint64(i), Admitted: uint64(100 - i),
		})
	}
	f.sources = append(f.sources, datapath.Source{Prefix: netip.MustParsePrefix("2001:db8:1:2::/64"), Service: "default"})
	for _, c := range []struct {
		args, first string
		lines       int
		stderr      []string
	}{
		{"", "10.0.0.29", 20, []string{"20 of 31 sources; --top 0 shows all"}},
		{"--by admitted --top 3", "10.0.0.0", 3, []string{"3 of 31 sources; --top 0 shows all"}},
		{"--top 0", "10.0.0.29", 31, nil},
		{"10.0.0.7", "10.0.0.7", 1, nil},
		{"2001:db8:1:2::5", "2001:db8:1:2::/64", 1, nil},
		{"2001:db8:1:2::/64", "2001:db8:1:2::/64", 1, nil},
		{"192.0.2.1", "", 0, []string{"no new connection of 192.0.2.1 has been seen"}},
	} {
		got := runWith(t, f, append([]string{"sources", "-o", "plain"}, strings.Fields(c.args)...)...)
		expect(t, got, exitOK, c.stderr...)
		lines := strings.Split(got.stdout, "\n")
		if len(lines)-1 != c.lines || lines[0] != c.first {
			t.Errorf("sources %s: %d lines, first %q, want %d and %q", c.args, len(lines)-1, lines[0], c.lines, c.first)
		}
	}
	expect(t, runWith(t, f, "sources", "10.0.0.0/24"), exitUsage,
		`synward: invalid source "10.0.0.0/24": it holds more than one source; write one address or an IPv6 /64`)
}

func TestCheckAndForget(t *testing.T) {
	f := newFake()
	f.policy.Policy = policy.Default(rate50(100))
	limit := &f.policy.Policy.Services[0].Limits[0]
	f.verdict = datapath.Verdict{Verdict: "pass", Reason: "under_limit", Left: 3, Limit: limit}
	for port, want := range map[string]netip.AddrPort{
		"443": netip.AddrPortFrom(netip.Addr{}, 443), "10.0.0.1:443": netip.MustParseAddrPort("10.0.0.1:443"),
		"[::ffff:10.0.0.1]:443": netip.MustParseAddrPort("10.0.0.1:443"),
	} {
		expect(t, runWith(t, f, "check", "192.0.2.1", "--port", port), exitOK)
		if f.local != want {
			t.Errorf("--port %s checks %v", port, f.local)
		}
	}
	for port, want := range map[string]string{
		"0": "there is no port 0; use 1 to 65535", "65536": "there is no port 65536; use 1 to 65535",
		"https":     `invalid port "https": write it as in 443, 203.0.113.10:443 or [2001:db8::10]:443`,
		"fe80::1":   `invalid port "fe80::1": write it as in 443, 203.0.113.10:443 or [2001:db8::10]:443`,
		"[::1]:443": "192.0.2.1 cannot connect to ::1: one is IPv4 and one IPv6",
	} {
		expect(t, runWith(t, f, "check", "192.0.2.1", "--port", port), exitUsage, "synward: "+want)
	}
	f.verdict = datapath.Verdict{Verdict: "drop", Reason: "over_new", Until: noon().Add(time.Second), Limit: limit}
	for _, format := range []string{"text", "json"} {
		got := runIn(t, f, func(*env) {}, "--pin-dir", "/bpf/two", "check", "192.0.2.1", "-o", format)
		expect(t, got, exitOver)
		if want := "synward --pin-dir /bpf/two forget 192.0.2.1"; !strings.Contains(got.stdout, want) {
			t.Errorf("-o %s does not say how to lift it:\n%s", format, got.stdout)
		}
	}
	expect(t, runWith(t, f, "forget", "2001:db8:1:2::/64"), exitOK, "2001:db8:1:2::: begins afresh")
	if want := netip.MustParseAddr("2001:db8:1:2::"); f.forgotten != want {
		t.Errorf("forgot %v, want %v", f.forgotten, want)
	}
}

func TestStats(t *testing.T) {
	f := newFake()
	f.totals = []datapath.Total{{Reason: "over_new"}}
	if got := runWith(t, f, "stats"); got.code != exitOK || !strings.Contains(got.stdout, "over_new  1 ") {
		t.Errorf("%+v", got)
	}
	got := runWith(t, f, "stats", "--interval", "1s", "--count", "2", "-o", "json")
	expect(t, got, exitOK)
	lines := strings.Split(got.stdout, "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[1],
		`{"schema":1,"since":"2026-03-01T12:00:01Z","time":"2026-03-01T12:00:02Z"`) ||
		!strings.Contains(lines[1], `"packets":1,`) {
		t.Errorf("two intervals read:\n%s", got.stdout)
	}
}

func TestUpgrade(t *testing.T) {
	f := newFake()
	f.upgraded = &datapath.Upgraded{From: 2, To: 2, Interfaces: []datapath.UpgradedInterface{{Name: "eth0"}, {Name: "eth1", Swapped: true}}}
	expect(t, runWith(t, f, "upgrade"), exitOK, "eth0: unchanged, it runs the program of this version", "eth1: runs the program of this version now")
	f.upgraded = &datapath.Upgraded{From: 2, To: 3, Finished: true, Interfaces: []datapath.UpgradedInterface{{Name: "eth0", Why: "gone"}}}
	expect(t, runWith(t, f, "upgrade"), exitPartly, "an upgrade that was killed is finished",
		"carried over from ABI 2 to ABI 3: lists, policies, counters, sources",
		"levels begin afresh: each source has one extra burst, and QUIC connections of the last ten seconds count again",
		"eth0: left as it is: gone")
	f.err = fmt.Errorf("map bans: %w", datapath.ErrRefused)
	expect(t, runWith(t, f, "upgrade"), exitRefused, "synward: map bans: refused")
	expect(t, runWith(t, f, "upgrade", "eth0"), exitUsage, `synward: upgrade takes no argument, not "eth0"; see synward upgrade --help`)
}

func TestDoctor(t *testing.T) {
	f := newFake()
	f.findings = []datapath.Finding{{Name: "kernel", OK: true}}
	expect(t, runWith(t, f, "doctor"), exitOK)
	f.findings[0].OK = false
	expect(t, runWith(t, f, "doctor", "eth0", "-o", "json"), exitFailed)
}

// Whoever is not root is told so, and nothing is opened; what needs no root works.
func TestNotRoot(t *testing.T) {
	user := func(e *env) { e.euid = 1000 }
	for _, line := range []string{
		"", "attach eth0", "detach eth0", "detach --all", "status", "limit default --new 5/s", "apply -f x",
		"confirm", "rollback", "policy", "services", "allow add 10.0.0.0/8",
		"allow list", "block add 10.0.0.0/8", "block rm 10.0.0.0/8", "block list", "sources", "forget 10.0.0.1",
		"check 10.0.0.1", "stats", "doctor", "upgrade",
	} {
		f := newFake()
		f.err = errors.New("touched")
		got := runIn(t, f, user, strings.Fields(line)...)
		expect(t, got, exitFailed, "synward: must be run as root (try: sudo synward ...)")
		if got.stdout != "" || len(f.dirs) != 0 {
			t.Errorf("synward %s: touched %v, printed %q", line, f.dirs, got.stdout)
		}
	}
	for _, line := range []string{"version", "version -o json", "--help", "help block", "block add --help", "completion bash"} {
		if got := runIn(t, newFake(), user, strings.Fields(line)...); got.code != exitOK || got.stdout == "" {
			t.Errorf("synward %s: %+v", line, got)
		}
	}
}

func TestPinDir(t *testing.T) {
	variable := func(e *env) {
		e.getenv = func(key string) string { return map[string]string{pinDirVariable: "/env"}[key] }
	}
	for _, c := range []struct {
		adapt func(*env)
		args  []string
		want  string
	}{
		{func(*env) {}, nil, datapath.DefaultPinDir},
		{variable, nil, "/env"},
		{variable, []string{"--pin-dir", "/flag"}, "/flag"},
		{variable, []string{"--pin-dir", "/a/../b/"}, "/b"},
	} {
		f := newFake()
		runIn(t, f, c.adapt, append(c.args, "stats")...)
		if len(f.dirs) != 1 || f.dirs[0] != c.want {
			t.Errorf("%v opens %v, want %s", c.args, f.dirs, c.want)
		}
	}
}
