// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"testing"
)

func diffText(from, to *Policy) string {
	var text strings.Builder
	for _, c := range Diff(from, to) {
		text.WriteString(c.String() + "\n")
	}
	return text.String()
}

const diffBase = `version: 1
sets: {office: [192.0.2.0/24], old: []}
services:
  - name: web
    listen: [80/tcp, 443/tcp]
    limits:
      - {per: source, concurrent: 200}
      - {per: source, new: 50/s, burst: 100}
      - {per: service, new: 20k/s}
  - {name: gone, listen: [25/tcp]}
global:
  limits: [{per: source, new: 1k/s}]
allow: [office, 198.51.100.1]
block: [203.0.113.0/24]
`

func TestDiff(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"one rate", "new: 50/s", "new: 80/s", "~ service web limit 2: new 50/s burst 100 -> new 80/s burst 100\n"},
		{"mode", "version: 1\n", "version: 1\nmode: observe\n", "~ mode: enforce -> observe\n"},
		{"heads", "version: 1\n", "version: 1\non_table_full: drop\nstrict_parsing: true\n",
			"~ on_table_full: challenge -> drop\n~ strict_parsing: false -> true\n"},
		{"limit goes", "      - {per: source, concurrent: 200}\n", "", "- service web limit 1: concurrent 200\n"},
		{"limit comes first", "    limits:\n", "    limits:\n      - {per: source, new: 7/s}\n",
			"+ service web limit 1: new 7/s burst 7\n"},
		{"limit comes last", "20k/s}\n", "20k/s}\n      - {per: source, packets: 7/s}\n",
			"+ service web limit 4: packets 7/s burst 7\n"},
		{"limit by its list", "new: 50/s", "new: 50/s, except: [office]",
			"~ service web limit 2: new 50/s burst 100 -> new 50/s burst 100 except office\n"},
		{"listen", "443/tcp]", "443/tcp, 443/quic]", "+ service web listen 443/quic\n"},
		{"service goes", "  - {name: gone, listen: [25/tcp]}\n", "", "- service gone\n"},
		{"service is renamed", "gone", "mail", "- service gone\n+ service mail\n+ service mail listen 25/tcp\n"},
		{"service allow", "name: gone,", "name: gone, allow: [office],", "+ service gone allow office\n"},
		{"global", "1k/s", "2k/s", "~ global limit 1: new 1k/s burst 1000 -> new 2k/s burst 2000\n"},
		{"allow", "office, 198.51.100.1]", "198.51.100.2]",
			"- allow office\n- allow 198.51.100.1\n+ allow 198.51.100.2\n"},
		{"set", "office: [192.0.2.0/24], old: []", "office: [192.0.2.0/25, 192.0.2.128/25], other: [\"::1\"]",
			"- set office 192.0.2.0/24\n+ set office 192.0.2.0/25\n+ set office 192.0.2.128/25\n- set old\n+ set other\n+ set other ::1\n"},
		{"inside another", "203.0.113.0/24]", "203.0.113.0/24, 203.0.113.7]", ""},
		{"another spelling", "50/s", "50/1000ms", ""},
		{"another order", "80/tcp, 443/tcp", "443/tcp, 80-80/tcp", ""},
		{"source", "version: 1\n", "version: 1\nsource: {ipv6: 56}\n", `~ source: /32, /64 -> /32, /56
~ service web limit 1: concurrent 200 -> concurrent 200 prefix /32, /56
~ service web limit 2: new 50/s burst 100 -> new 50/s burst 100 prefix /32, /56
~ global limit 1: new 1k/s burst 1000 -> new 1k/s burst 1000 prefix /32, /56
`},
	} {
		changed := strings.Replace(diffBase, c.old, c.new, 1)
		if changed == diffBase {
			t.Fatalf("%s changes nothing", c.name)
		}
		if got := diffText(mustParse(t, diffBase), mustParse(t, changed)); got != c.want {
			t.Errorf("%s: got\n%swant\n%s", c.name, got, c.want)
		}
	}
}

// The order of services means nothing.
func TestDiffServiceOrder(t *testing.T) {
	a := mustParse(t, "version: 1\nservices: [{name: a, listen: [1/tcp]}, {name: b, listen: [2/tcp]}]")
	b := mustParse(t, "version: 1\nservices: [{name: b, listen: [2/tcp]}, {name: a, listen: [1/tcp]}]")
	if got := diffText(a, b); got != "" || !a.Equal(b) {
		t.Errorf("equal: %v, got %s", a.Equal(b), got)
	}
}

func TestDiffOfLongLists(t *testing.T) {
	long := &Policy{}
	for i := range 1000 {
		p, err := ParsePrefix(fmt.Sprintf("192.0.%d.%d", i/250, i%250))
		if err != nil {
			t.Fatal(err)
		}
		long.Block.Prefixes = append(long.Block.Prefixes, p)
	}
	got := strings.Split(strings.TrimSpace(diffText(nil, long)), "\n")
	if len(got) != maxListed+1 || got[0] != "+ block 192.0.0.0" || got[maxListed] != "+ block: 980 more" {
		t.Errorf("got %q", got)
	}
	limits := diffBase[:strings.Index(diffBase, "global:")]
	from := func(last string) *Policy {
		return mustParse(t, strings.Replace(limits, "new: 50/s", "new: 50/s, from: [192.0.2.1, 192.0.2.2, 192.0.2.3, "+last+"]", 1))
	}
	want := "- service web limit 2 from 192.0.2.4\n+ service web limit 2 from 192.0.2.5\n"
	if got := diffText(from("192.0.2.4"), from("192.0.2.5")); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestDiffFromNothing(t *testing.T) {
	if got := diffText(nil, &Policy{}); got != "" {
		t.Errorf("got %s", got)
	}
	if got := diffText(nil, nil); got != "" {
		t.Errorf("got %s", got)
	}
	want := "+ service default\n+ service default listen any/tcp\n+ service default limit 1: new 50/s burst 100\n"
	if got := diffText(nil, Default(&NewLimit{Rate: Rate{50, 1e9}, Burst: 100})); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
