// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestDefault(t *testing.T) {
	for name, c := range map[string]struct {
		limit *NewLimit
		want  string
	}{
		"no limit": {nil, ""},
		"limit":    {&NewLimit{Rate{50, time.Second}, 100}, "    limits:\n      - {per: source, new: 50/s, burst: 100}\n"},
	} {
		p := Default(c.limit)
		want := "services:\n  - name: default\n    listen: [\"any/tcp\"]\n" + c.want
		if got := string(p.YAML()); !strings.HasSuffix(got, want) {
			t.Errorf("%s: got %s", name, got)
		}
		if err := p.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		checkRoundTrip(t, p)
	}
}

func TestWithLimit(t *testing.T) {
	number := func(n uint64) *uint64 { return &n }
	rate := func(s string) *Rate {
		r, err := ParseRate(s)
		if err != nil {
			t.Fatal(err)
		}
		return &r
	}
	const head = "version: 1\nservices: [{name: a, listen: [any/tcp], limits: ["
	for _, c := range []struct {
		limits string
		change LimitChange
		want   string
	}{
		{"", LimitChange{New: rate("5/s")}, "+ service a limit 1: new 5/s burst 5"},
		{"", LimitChange{New: rate("5/s"), Burst: number(9)}, "+ service a limit 1: new 5/s burst 9"},
		{"", LimitChange{Concurrent: number(7)}, "+ service a limit 1: concurrent 7"},
		{"", LimitChange{NewOff: true, ConcurrentOff: true}, ""},
		{"", LimitChange{}, ""},
		{"{per: service, new: 9/s}, {per: source, new: 5/s, burst: 8}", LimitChange{New: rate("6/s")},
			"~ service a limit 2: new 5/s burst 8 -> new 6/s burst 6"},
		{"{per: service, new: 9/s}, {per: source, new: 5/s, burst: 8}", LimitChange{Burst: number(3)},
			"~ service a limit 2: new 5/s burst 8 -> new 5/s burst 3"},
		{"{per: source, new: 5/s}, {per: source, new: 5/s}", LimitChange{NewOff: true}, "- service a limit 2: new 5/s burst 5"},
		{"{per: source, new: 3/min, strict: true}", LimitChange{New: rate("6/min")},
			"~ service a limit 1: new 3/min burst 1 strict -> new 6/min burst 3 strict"},
		{"{per: source, concurrent: 5}", LimitChange{Concurrent: number(6)}, "~ service a limit 1: concurrent 5 -> concurrent 6"},
		{"{per: source, concurrent: 5}", LimitChange{ConcurrentOff: true}, "- service a limit 1: concurrent 5"},
	} {
		before := mustParse(t, head+c.limits+"]}]")
		text := string(before.YAML())
		after, err := WithLimit(before, "a", c.change)
		if err != nil {
			t.Errorf("%s: %v", c.limits, err)
			continue
		}
		if got := strings.TrimSpace(diffText(before, after)); got != c.want {
			t.Errorf("%s: got %q, want %q", c.limits, got, c.want)
		}
		if string(before.YAML()) != text {
			t.Errorf("%s: the policy before has changed", c.limits)
		}
	}
}

func TestWithLimitErrors(t *testing.T) {
	number := func(n uint64) *uint64 { return &n }
	udp := mustParse(t, "version: 1\nservices: [{name: game, listen: [any/udp]}, {name: web, listen: [80/tcp]}]")
	for want, c := range map[string]struct {
		policy  *Policy
		service string
		change  LimitChange
	}{
		`invalid service "webb": there is none of this name (did you mean "web"?); there are game, web`: {udp, "webb", LimitChange{}},
		`invalid service "web": the policy has no services; apply one with -f FILE`:                     {&Policy{}, "web", LimitChange{}},
		`invalid burst 9: service web has no limit of new connections per source whose rate it could keep; give --new RATE too`: {
			udp, "web", LimitChange{Burst: number(9)}},
		`invalid burst 0: it would refuse every new connection; use at least 1`: {udp, "web",
			LimitChange{New: &Rate{5, time.Second}, Burst: number(0)}},
		`invalid policy: service web limit 1: it would refuse everything; use at least 1, or a block list`: {udp, "web",
			LimitChange{Concurrent: number(0)}},
		`invalid policy: service game limit 1: there are no connections on udp alone; count packets or bytes_in`: {udp, "game",
			LimitChange{New: &Rate{5, time.Second}}},
	} {
		_, err := WithLimit(c.policy, c.service, c.change)
		checkInvalid(t, "WithLimit", c.service, err, want)
	}
}

// What a command makes is held to the rules of the parser, and the place is told in words.
func TestValidate(t *testing.T) {
	for want, spoil := range map[string]func(p *Policy){
		`invalid policy: there is no mode "off"; use enforce or observe`:             func(p *Policy) { p.Mode = "off" },
		`invalid policy: there is no on_table_full "x"; use challenge, pass or drop`: func(p *Policy) { p.OnTableFull = "x" },
		`invalid policy: source: an IPv4 prefix is 1 to 32 bits long, not 40`:        func(p *Policy) { p.Source.IPv4 = 40 },
		`invalid policy: allow: there is no set "x"; name it under sets, or write an address or a prefix`: func(p *Policy) {
			p.Allow.Sets = []string{"x"}
		},
		`invalid policy: set a: there are two sets of the name "a"; rename one`: func(p *Policy) { p.Sets = []Set{{Name: "a"}, {Name: "a"}} },
		`invalid policy: service web: a service listens somewhere; write it as in listen: [443/tcp]`: func(p *Policy) {
			p.Services[0].Listen = nil
		},
		`invalid policy: service web listen 1: 0/tcp is no listen address; write it as in 443/tcp`: func(p *Policy) {
			p.Services[0].Listen[0] = Listen{Proto: TCP}
		},
		`invalid policy: service web limit 1: there is no per "x"; use source, destination, source+destination or service`: func(p *Policy) {
			p.Services[0].Limits[0].Per = "x"
		},
		`invalid policy: service web limit 1: a limit counts one of new, concurrent, packets, bytes_in, bytes_out`: func(p *Policy) {
			p.Services[0].Limits[0].Concurrent, p.Services[0].Limits[0].Kind = 5, ""
		},
		`invalid policy: service web limit 1: the period is too long; use at most 3650d`: func(p *Policy) {
			p.Services[0].Limits[0].Rate.Period = 3651 * Day
		},
		`invalid policy: service web limit 1: the period is a whole number of milliseconds, not 1µs`: func(p *Policy) {
			p.Services[0].Limits[0].Rate.Period = time.Microsecond
		},
		`invalid policy: block: the list holds a prefix that is none; take it out`: func(p *Policy) {
			p.Block.Prefixes = make([]netip.Prefix, 1)
		},
		`invalid policy: set a: the list holds a prefix that is none; take it out`: func(p *Policy) {
			p.Sets = []Set{{Name: "a", Prefixes: make([]netip.Prefix, 1)}}
		},
		`invalid policy: service web limit 1 ban: after is a number of strikes, 1 to 65535`: func(p *Policy) {
			p.Services[0].Limits[0].Ban = &Ban{For: time.Second, Within: time.Second}
		},
		`invalid policy: global limit 1 prefix: an IPv6 prefix is 1 to 128 bits long, not -1`: func(p *Policy) {
			p.Global.Limits = []Limit{{Kind: KindNew, Per: PerSource, Rate: Rate{1, 1e9}, Prefix: PrefixLengths{24, -1}}}
		},
	} {
		p := mustParse(t, "version: 1\nservices: [{name: web, listen: [80/tcp], limits: [{per: source, new: 5/s}]}]")
		spoil(p)
		checkInvalid(t, "Validate", want, p.Validate(), want)
	}
	var e *Error
	if err := (&Policy{Mode: "x"}).Validate(); errors.As(err, &e) {
		t.Errorf("an error without a file has a place in one: %v", err)
	}
}
