// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/synward/synward/pkg/policy"
)

// examplePolicy is the one of the design, word for word.
const examplePolicy = `
version: 1
mode: enforce                  # or observe
on_table_full: challenge       # challenge | pass | drop
strict_parsing: false
source: {ipv4: 32, ipv6: 64}
sets:
  office: [192.0.2.0/24, "2001:db8:1::/48"]
  relays: [{file: /etc/synward/relays.txt}]
services:
  - name: web
    listen: ["80/tcp", "443/tcp", "203.0.113.10:8443/tcp", "[2001:db8::10]:8443/tcp", "443/quic"]
    limits:
      - {per: source, new: 50/s, burst: 100}
      - {per: source, prefix: {ipv4: 24, ipv6: 48}, new: 500/s}
      - {per: source, concurrent: 200, over: reset}
      - {per: service, new: 20k/s, over: challenge, exempt: verified}
      - {per: source, bytes_out: 20MB/60s, ban: {after: 1, within: 60s, for: 10m, growth: 2, max: 24h}}
  - name: ssh
    listen: ["22/tcp"]
    allow: [office]
    limits: [{per: source, new: 3/min, strict: true, ban: {after: 5, within: 1h, for: 1h}}]
  - name: mail
    listen: ["25/tcp"]
    limits:
      - {per: source, concurrent: 10, except: [relays]}
      - {per: source, new: 100/h, except: [relays]}
      - {per: source, new: 2k/h, from: [relays]}
  - name: game
    listen: ["27015-27030/udp"]
    limits: [{per: source, packets: 300/s, burst: 600}]
global:
  limits: [{per: source, new: 1k/s}]
allow: [office]
block: [{file: /etc/synward/deny.netset}]
`

// The files that it names.
var exampleFiles = map[string]string{
	"/etc/synward/relays.txt":  "# relays\n198.51.100.0/24\n2001:db8:2::/48\n",
	"/etc/synward/deny.netset": "198.18.66.0/24 ; who did us harm\n2001:db9:66::/48\n",
}

// untilNow takes out what this version of the data path does not know: bans.
func untilNow(text string) string { return without(text, `no such line`) }

// forOneSource takes out besides what counts the connections of the whole host: the tests that run beside each other
// have the same clients.
func forOneSource(text string) string { return without(text, `concurrent:`) }

// without takes out the lines that match, and bans.
func without(text, lines string) string {
	var kept []string
	for line := range strings.Lines(text) {
		if !regexp.MustCompile(lines).MatchString(line) {
			kept = append(kept, regexp.MustCompile(`, ban: \{[^}]*\}`).ReplaceAllString(line, ""))
		}
	}
	return strings.Join(kept, "")
}

// parseExample reads the files from a directory of the test's.
func parseExample(t *testing.T, text string) *policy.Policy {
	t.Helper()
	dir := t.TempDir()
	for path, list := range exampleFiles {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := policy.Parse("example.yaml", []byte(text), func(path string) ([]byte, error) {
		return os.ReadFile(filepath.Join(dir, filepath.Base(path)))
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The whole example is a policy, and what is taken out of it is no more than it has to be.
func TestExampleLosesOnlyWhatIsNotYetKnown(t *testing.T) {
	whole, known := parseExample(t, examplePolicy), parseExample(t, untilNow(examplePolicy))
	limits := func(p *policy.Policy) (n int) {
		for _, s := range p.Services {
			n += len(s.Limits)
		}
		return n + len(p.Global.Limits)
	}
	if limits(whole) != 11 || limits(known) != 11 || len(whole.Services) != len(known.Services) {
		t.Errorf("the example has %d limits, %d of them known, want all 11", limits(whole), limits(known))
	}
	for n, s := range known.Services {
		for _, l := range s.Limits {
			if l.Ban != nil {
				t.Errorf("%s has %s", s.Name, l)
			}
		}
		if w := whole.Services[n]; w.Name != s.Name || len(w.Listen) != len(s.Listen) {
			t.Errorf("service %+v of %+v", s, w)
		}
	}
}
