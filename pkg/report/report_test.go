// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden holds what write produces against a file of testdata.
func golden(t *testing.T, file string, write func(io.Writer) error) {
	t.Helper()
	var got bytes.Buffer
	if err := write(&got); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s (go test ./pkg/report -update rewrites it):\n got:\n%s\nwant:\n%s", file, got.Bytes(), want)
	}
	if filepath.Ext(file) == ".json" && !json.Valid(got.Bytes()) {
		t.Errorf("%s is not JSON", file)
	}
}

func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func limit() *policy.NewLimit {
	return &policy.NewLimit{Rate: policy.Rate{Count: 50, Period: time.Second}, Burst: 100}
}

func total(reason string, packets, bytes uint64, actions map[string]uint64) datapath.Total {
	t := datapath.Total{Reason: reason, Actions: map[string]uint64{"pass": 0, "drop": 0, "observe": 0}}
	t.Packets, t.Bytes = packets, bytes
	for k, v := range actions {
		t.Actions[k] = v
	}
	return t
}

func totals() []datapath.Total {
	return []datapath.Total{
		total("not_ip", 0, 0, nil),
		total("under_limit", 150, 11_100, map[string]uint64{"pass": 150}),
		total("over_new", 4_000_000, 296_000_000, map[string]uint64{"drop": 3_999_990, "observe": 10}),
	}
}

func status() Status {
	return Status{
		Now: now(),
		Interfaces: []datapath.Interface{
			{
				Name: "eth1", Ifindex: 3, Mode: datapath.ModeGeneric, Armed: false, Traffic: datapath.TrafficNone,
				Why: "its link was lost; mend it with: synward attach eth1", AttachedAt: now().Add(-26 * time.Hour),
			},
			{
				Name: "eth0", Ifindex: 7, Netns: "blue", Mode: datapath.ModeTC, Armed: true, Traffic: datapath.TrafficPartial,
				Received: 100, Judged: 50, AttachedAt: now().Add(-90 * time.Second),
			},
			{
				Name: "eth0.100", Ifindex: 2, Mode: datapath.ModeNative, Armed: true, Traffic: datapath.TrafficFlowing,
				Received: 4_000_150, Judged: 4_000_150, AttachedAt: now().Add(-500 * time.Millisecond),
			},
		},
		Policy: datapath.Policy{Generation: 3, Mode: "enforce", Policy: policy.Default(limit())},
		Totals: totals(),
	}
}

func TestStatus(t *testing.T) {
	golden(t, "status.txt", status().Text)
	golden(t, "status.json", status().JSON)
	s := status()
	s.Interfaces, s.Policy.Policy = s.Interfaces[2:], policy.Default(nil)
	s.Totals = append(s.Totals[:1], total("self_test", 4, 256, map[string]uint64{"pass": 4}))
	golden(t, "status-fresh.txt", s.Text)
	golden(t, "status-fresh.json", s.JSON)
	if !s.Whole() || status().Whole() {
		t.Errorf("whole: one healthy interface %v, three with trouble %v; want true, false", s.Whole(), status().Whole())
	}
	s.Policy.ConnTrouble = "the hook conns-gate is not there"
	if s.Whole() {
		t.Error("without its hooks the counting of connections counts as whole")
	}
	s.Policy.ConnTrouble = ""
	s.Interfaces = nil
	if s.Whole() {
		t.Error("no interface at all counts as whole")
	}
}

// A policy of several services that waits for its confirmation, on an interface that does too.
func TestStatusPending(t *testing.T) {
	s := status()
	s.Interfaces = s.Interfaces[2:]
	s.Interfaces[0].Unconfirmed, s.Interfaces[0].Left = true, 41*time.Second+500*time.Millisecond
	s.Policy = webInForce()
	s.Totals = s.Totals[:2]
	golden(t, "status-pending.txt", s.Text)
	golden(t, "status-pending.json", s.JSON)
}

func sources() Sources {
	return Sources{Now: now(), Sources: []datapath.Source{
		{
			Prefix: netip.MustParsePrefix("2001:db8:1:2::/64"), Service: "default", Admitted: 20, Refused: 5,
			FirstSeen: now().Add(-time.Hour), LastSeen: now(),
		},
		{
			Prefix: netip.MustParsePrefix("192.0.2.9/32"), Service: "default", Admitted: 3, Refused: 90_000,
			FirstSeen: now().Add(-75 * time.Second), LastSeen: now().Add(-3 * time.Second), Sampled: true,
		},
		{
			Prefix: netip.MustParsePrefix("192.0.2.1/32"), Service: "default", Admitted: 20, Refused: 5,
			FirstSeen: now().Add(-49 * time.Hour), LastSeen: now().Add(-10 * time.Minute),
		},
	}}
}

func TestSources(t *testing.T) {
	s := sources()
	SortSources(s.Sources, ByRefused)
	golden(t, "sources.txt", s.Text)
	golden(t, "sources.json", s.JSON)
	golden(t, "sources.plain", s.Plain)
	SortSources(s.Sources, ByAdmitted)
	golden(t, "sources-admitted.plain", s.Plain)
	golden(t, "sources-empty.json", Sources{Now: now()}.JSON)
	// A blocked source is refused before its service is looked for.
	s.Sources = s.Sources[:1]
	s.Sources[0].Service = ""
	golden(t, "sources-blocked.txt", s.Text)
	golden(t, "sources-blocked.json", s.JSON)
}

// Where connections are counted, sources say how many they hold, and when they last completed a handshake.
func TestSourcesCounted(t *testing.T) {
	s := sources()
	for n := range s.Sources[1:] {
		s.Sources[n].Counted, s.Sources[n].Established = true, uint64(200*n)
	}
	s.Sources[1].Verified = now().Add(-time.Minute)
	s.Sources[1].Sends, s.Sources[1].BytesOut = true, 14_200_000
	SortSources(s.Sources, ByEstablished)
	golden(t, "sources-counted.txt", s.Text)
	golden(t, "sources-counted.json", s.JSON)
}

// Of one source, all that its limits count is shown, and from where.
func TestSource(t *testing.T) {
	text := `
version: 1
services:
  - name: web
    listen: [443/tcp]
    limits: [{per: source, new: 50/s, burst: 100}, {per: source, concurrent: 200}, {per: source, bytes_out: 20MB/60s}]
`
	p, err := policy.Parse("policy.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	limits := p.Services[0].Limits
	s := Source{Sources: sources(), Top: 2, Levels: []datapath.LimitLevel{
		{Service: "web", Name: "web limit 1", Limit: limits[0], Counted: 37, Most: 100, Clear: now().Add(740 * time.Millisecond), Borrowed: true},
		{Service: "web", Name: "web limit 2", Limit: limits[1], Counted: 3, Most: 200},
		{Service: "web", Name: "web limit 3", Limit: limits[2], Counted: 14_200_000, Most: 20_000_000, Clear: now().Add(42 * time.Second)},
	}}
	s.Sources.Sources = s.Sources.Sources[1:2]
	for n := range 3 {
		s.Conns = append(s.Conns, datapath.OpenConn{
			Service: "web", Remote: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.9:%d", 50432+n)),
			Local: netip.MustParseAddrPort("203.0.113.10:443"), Since: now().Add(-time.Duration(3-n) * time.Minute),
		})
	}
	golden(t, "source.txt", s.Text)
	golden(t, "source.json", s.JSON)
	// What holds connections need not be in the ledger.
	s.Sources.Sources, s.Levels, s.Top = nil, nil, 0
	golden(t, "source-conns.txt", s.Text)
}

// bans are entries that only the block list has.
func bans() []datapath.Entry {
	ban := func(prefix string, only bool) datapath.Entry {
		return datapath.Entry{
			Prefix: netip.MustParsePrefix(prefix), Scope: datapath.ScopeAll, Created: now().Add(-time.Minute), Expires: now().Add(9 * time.Minute),
			Origin: datapath.OriginAuto, Reason: "5 strikes at web", Hits: 100,
			Ban: &datapath.Ban{Service: "web", Only: only, Strikes: 5, Repeats: 1, Fades: 10 * time.Minute},
		}
	}
	return []datapath.Entry{ban("203.0.113.7/32", false), ban("2001:db8:5:6::/64", true)}
}

func entries(list datapath.List) Entries {
	return Entries{Now: now(), List: list, Entries: []datapath.Entry{
		{
			Prefix: netip.MustParsePrefix("2001:db8::/32"), Scope: datapath.ScopeNew, Created: now().Add(-time.Hour),
			Expires: now().Add(10*time.Minute + 30*time.Second), Origin: "operator", By: "ann", Reason: "scanner",
		},
		{
			Prefix: netip.MustParsePrefix("192.0.2.0/24"), Scope: datapath.ScopeAll, Created: now().Add(-time.Minute),
			Origin: "operator", By: "ann", Reason: "tab\tand \x1b[31mcolour", Hits: 12,
		},
		{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Scope: datapath.ScopeAll},
		{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Scope: datapath.ScopeAll, Origin: "policy", Hits: 3},
	}}
}

func TestEntries(t *testing.T) {
	for name, list := range map[string]datapath.List{"block": datapath.Block, "allow": datapath.Allow} {
		golden(t, name+".txt", entries(list).Text)
		golden(t, name+".json", entries(list).JSON)
		golden(t, name+".plain", entries(list).Plain)
		golden(t, name+"-empty.json", Entries{Now: now(), List: list}.JSON)
	}
	banned := Entries{Now: now(), List: datapath.Block, Entries: bans()}
	golden(t, "block-bans.txt", banned.Text)
	golden(t, "block-bans.json", banned.JSON)
}

// What is written plain is what add and rm read; bans are none of it, or add would make blocks of them that do not end.
// What somebody blocked who is banned too, is.
func TestPlainCanBeFedBack(t *testing.T) {
	var plain bytes.Buffer
	all := entries(datapath.Block)
	all.Entries = append(all.Entries, bans()...)
	all.Entries = append(all.Entries, datapath.Entry{Prefix: all.Entries[2].Prefix, Origin: datapath.OriginAuto, Ban: &datapath.Ban{}})
	if err := all.Plain(&plain); err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(plain.Bytes(), []byte("\n")); lines != len(entries(datapath.Block).Entries) || all.Bans() != 3 {
		t.Errorf("%d lines beside %d bans:\n%s", lines, all.Bans(), plain.Bytes())
	}
	for i, line := range bytes.Fields(plain.Bytes()) {
		got, err := policy.ParsePrefix(string(line))
		if want := entries(datapath.Block).sorted()[i].Prefix; err != nil || got != want {
			t.Errorf("%s reads back as %v, %v, want %v", line, got, err, want)
		}
	}
}

func TestDoctor(t *testing.T) {
	f := Findings{
		{Name: "kernel", OK: true, Detail: "6.1.0"},
		{Name: "bpffs", OK: false, Detail: "not mounted at /sys/fs/bpf", Fix: "mount -t bpf bpf /sys/fs/bpf"},
	}
	golden(t, "doctor.txt", f.Text)
	golden(t, "doctor.json", f.JSON)
	if f.OK() || !f[:1].OK() {
		t.Errorf("OK is %v with something missing and %v without", f.OK(), f[:1].OK())
	}
}

func TestStats(t *testing.T) {
	golden(t, "stats.txt", Stats{At: now(), Totals: totals()}.Text)
	golden(t, "stats.json", Stats{At: now(), Totals: totals()}.JSON)
	after := totals()
	after[1] = total("under_limit", 250, 18_500, map[string]uint64{"pass": 250})
	after[2] = total("over_new", 7, 518, map[string]uint64{"drop": 7})
	moved := Stats{Since: now(), At: now().Add(2 * time.Second), Totals: Between(totals(), after)}
	golden(t, "stats-interval.txt", moved.Text)
	golden(t, "stats-interval.json", moved.JSON)
	moved.Totals = Between(totals(), totals())
	golden(t, "stats-idle.txt", moved.Text)
}

func TestVersion(t *testing.T) {
	v := Version{Version: "v1.2.3", Go: "go1.26.0", Arch: "amd64"}
	golden(t, "version.txt", v.Text)
	golden(t, "version.json", v.JSON)
}
