// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

const webFile = `
version: 1
sets:
  office: [192.0.2.0/24, "2001:db8:1::/48"]
services:
  - name: web
    listen: [80/tcp, 443/tcp, "203.0.113.10:8443/tcp", "[2001:db8::10]:8443/tcp", 443/quic]
    limits:
      - {per: source, new: 50/s, burst: 100}
      - {per: source, prefix: {ipv4: 24, ipv6: 48}, new: 500/s, except: [office]}
      - {per: service, new: 20k/s}
  - name: ssh
    listen: [22/tcp]
    allow: [office]
    limits: [{per: source, new: 3/min, strict: true, over: reset}]
  - name: game
    listen: [27015-27030/udp]
    limits: [{per: source, packets: 300/s, burst: 600}, {per: source, bytes_in: 2MB/s, over: observe}]
  - name: open
    listen: [8080/tcp]
global:
  limits: [{per: source, new: 1k/s, count_rejected: true}]
block: [198.51.100.0/24]
`

func parse(text string) *policy.Policy {
	p, err := policy.Parse("test", []byte(text), nil)
	if err != nil {
		panic(err)
	}
	return p
}

func webPolicy() *policy.Policy { return parse(webFile) }

func webInForce() datapath.Policy {
	return datapath.Policy{
		Generation: 4, Mode: "enforce", Policy: webPolicy(),
		Tables: []datapath.Table{
			{Limits: []string{"web limit 1", "web limit 2", "game limit 1", "game limit 2", "global limit 1"}, Bytes: 262_144, Singles: 620_000, Bursts: 9_900},
			{Limits: []string{"ssh limit 1"}, Bytes: 4_194_304, Singles: 1_234, Bursts: 1_234},
		},
		Pending: &datapath.Pending{By: "ann", Left: 42*time.Second + 300*time.Millisecond, Fallback: 3},
	}
}

func TestPolicy(t *testing.T) {
	p := webInForce()
	golden(t, "policy.yaml", PolicyText{p}.YAML)
	golden(t, "policy.json", PolicyText{p}.JSON)
	p.Policy, p.Pending = policy.Default(limit()), nil
	golden(t, "policy-default.yaml", PolicyText{p}.YAML)
	golden(t, "policy-default.json", PolicyText{p}.JSON)
}

// What is written is what apply reads, whatever the comments say, and every limit has one.
func TestPolicyCanBeAppliedAgain(t *testing.T) {
	files, err := filepath.Glob("../policy/testdata/good/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no policies to try: %v", err)
	}
	policies := map[string]*policy.Policy{"web": webPolicy(), "default": policy.Default(nil)}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		list := func(string) ([]byte, error) { return []byte("198.51.100.7\n2001:db8:bad::/48\n"), nil }
		if policies[file], err = policy.Parse(file, text, list); err != nil {
			t.Fatal(err)
		}
	}
	for name, p := range policies {
		var out bytes.Buffer
		if err := (PolicyText{datapath.Policy{Policy: p}}).YAML(&out); err != nil {
			t.Fatal(err)
		}
		again, err := policy.Parse(name, out.Bytes(), nil)
		if err != nil || !again.Equal(p) {
			t.Errorf("%s comes back as another policy (%v):\n%s", name, err, out.Bytes())
		}
		if got, want := strings.Count(out.String(), "  # "), len(allLimits(p)); got != want {
			t.Errorf("%s: %d limits have a comment, want %d:\n%s", name, got, want, out.Bytes())
		}
	}
}

func TestKept(t *testing.T) {
	observed := webPolicy()
	observed.Mode = policy.Observe
	k := Kept{Now: now(), Policies: []datapath.Applied{
		{Generation: 4, At: now().Add(-2 * time.Minute), By: "ann", Policy: webPolicy()},
		{Generation: 3, At: now().Add(-49 * time.Hour), By: "root", Policy: observed},
		{Generation: 1, Policy: policy.Default(nil)},
	}}
	golden(t, "kept.txt", k.Text)
	golden(t, "kept.json", k.JSON)
}

func TestServices(t *testing.T) {
	p := webPolicy()
	var s Services
	for n, one := range p.Services {
		state := datapath.ServiceState{Name: one.Name, Listen: one.Listen}
		state.Admitted = datapath.Counter{Packets: uint64(1000 * n), Bytes: uint64(74_000 * n)}
		for m, l := range one.Limits {
			over := datapath.Counter{Packets: uint64(10*n + m), Bytes: uint64(740*n + 74*m)}
			state.Limits = append(state.Limits, datapath.LimitState{Limit: l, Over: over})
		}
		s.Services = append(s.Services, state)
	}
	s.Services = append(s.Services, datapath.ServiceState{Limits: []datapath.LimitState{{Limit: p.Global.Limits[0]}}})
	golden(t, "services.txt", s.Text)
	golden(t, "services.json", s.JSON)
	golden(t, "services-empty.json", Services{}.JSON)
}

func TestInForce(t *testing.T) {
	p := webInForce()
	got := strings.Join(InForce(p), "\n")
	if want := "policy: generation 4, enforce: 4 services, 7 limits\n" +
		"table of web limit 1, web limit 2, game limit 1, game limit 2 and 1 more: 262.1 kB, holds up to 620k new sources " +
		"a second with one connection or packet each, 9.9k with a whole burst\n" +
		"table of ssh limit 1: 4.2 MB, holds up to 1.2k new sources a second with one connection or packet each, 1.2k with a whole burst"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	p = datapath.Policy{Policy: policy.Default(limit()), Tables: []datapath.Table{{Bytes: 999, Singles: 10, Bursts: 5}}}
	if got, want := strings.Join(InForce(p), "\n"), "limit: 50/s per source, burst 100 (at most 150 in any second)\n"+
		"table: 999 B, holds up to 10 new sources a second with one connection each, 5 with a whole burst"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What is not quite the policy without a file is not shown as its one limit.
func TestOnlyLimit(t *testing.T) {
	for text, want := range map[string]bool{
		"limits: [{per: source, new: 5/s}]":                           true,
		"limits: []":                                                  true,
		"limits: [{per: source, new: 5/s, over: reset}]":              false,
		"limits: [{per: destination, new: 5/s}]":                      false,
		"limits: [{per: source, new: 5/s}, {per: service, new: 5/s}]": false,
		"allow: [192.0.2.1]":                                          false,
	} {
		p := parse(fmt.Sprintf("version: 1\nservices: [{name: default, listen: [any/tcp], %s}]\n", text))
		if _, got := OnlyLimit(p); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestStatusManyServices(t *testing.T) {
	text := "version: 1\nservices:\n"
	for n := range 20 {
		text += fmt.Sprintf("  - {name: s%d, listen: [%d/tcp]}\n", n, 1000+n)
	}
	if got := services(parse("version: 1\n")); len(got) != 1 || got[0] != "no services: only the lists decide" {
		t.Errorf("without services: %q", got)
	}
	lines := services(parse(text))
	if got := lines[len(lines)-1]; len(lines) != 17 || got != "4 more services; `synward services` shows all" {
		t.Errorf("%d lines, the last %q", len(lines), got)
	}
}
