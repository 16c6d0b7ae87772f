// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"os"
	"path/filepath"
	"slices"
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

// forOneSource takes out what counts the connections of the whole host: the tests that run beside each other have the same
// clients.
func forOneSource(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "concurrent:") {
			kept = append(kept, line)
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
func TestExampleLosesOnlyWhatIsOfTheHost(t *testing.T) {
	whole, taken := parseExample(t, examplePolicy), parseExample(t, forOneSource(examplePolicy))
	count := func(p *policy.Policy) (limits, concurrent, bans int) {
		for _, l := range append(slices.Concat(p.Services[0].Limits, p.Services[1].Limits, p.Services[2].Limits, p.Services[3].Limits), p.Global.Limits...) {
			limits++
			if l.Kind == policy.KindConcurrent {
				concurrent++
			}
			if l.Ban != nil {
				bans++
			}
		}
		return limits, concurrent, bans
	}
	limits, concurrent, bans := count(whole)
	if limits != 11 || concurrent != 2 || bans != 2 || len(whole.Services) != 4 {
		t.Errorf("the example has %d limits, %d of connections, %d bans", limits, concurrent, bans)
	}
	limits, concurrent, bans = count(taken)
	if limits != 9 || concurrent != 0 || bans != 2 || len(taken.Services) != 4 {
		t.Errorf("what is tried of it has %d limits, %d of connections, %d bans", limits, concurrent, bans)
	}
}
