// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"testing"
	"time"
)

// examplePolicy is the policy of design section 7.
func examplePolicy(t *testing.T) *Policy {
	t.Helper()
	return mustParse(t, string(readTest(t, "testdata/good/example.yaml")))
}

// The example policy lets its operator log in three times a minute, from anywhere but the block list.
func TestAdmitsExample(t *testing.T) {
	p := examplePolicy(t)
	for _, c := range []struct {
		src, local string
		n          int
		within     time.Duration
		why        string
	}{
		{"198.51.100.99", "10.0.0.1:22", 3, time.Minute, ""},
		{"198.51.100.99", "10.0.0.1:22", 4, time.Minute,
			"service ssh, limit 1: new 3/min burst 1 strict ban 5 within 1h for 1h growth 2 max 1d"},
		{"198.51.100.99", "10.0.0.1:22", 2, 30 * time.Second, ""},
		{"198.51.100.99", "10.0.0.1:22", 2, 30*time.Second - 1,
			"service ssh, limit 1: new 3/min burst 1 strict ban 5 within 1h for 1h growth 2 max 1d"},
		{"192.0.2.9", "10.0.0.1:22", 1000, time.Second, ""},
		{"::ffff:192.0.2.9", "10.0.0.1:22", 1000, time.Second, ""},
		{"203.0.113.9", "10.0.0.1:22", 1, 0, "block has 203.0.113.0/24"},
		{"2001:db8:bad::9", "[2001:db8::1]:22", 1, 0, "block has 2001:db8:bad::/48"},
		{"203.0.113.9", "10.0.0.1:22", 0, 0, ""},
		{"198.51.100.99", "10.0.0.1:443", 100, 0, ""},
		{"198.51.100.99", "10.0.0.1:443", 101, 0, "service web, limit 1: new 50/s burst 100"},
		{"198.51.100.99", "10.0.0.1:443", 150, time.Second, ""},
		{"198.51.100.99", "10.0.0.1:443", 201, time.Hour, "service web, limit 3: concurrent 200 over reset"},
		{"198.51.100.99", "10.0.0.1:25", 11, time.Hour, "service mail, limit 1: concurrent 10 except relays"},
		{"198.51.100.7", "10.0.0.1:25", 1000, 0, ""},
		{"198.51.100.7", "10.0.0.1:25", 1001, 0, "global limit 1: new 1k/s burst 1000"},
		{"198.51.100.99", "10.0.0.1:4000", 1_000_000, 0, ""},
	} {
		ok, why := p.Admits(netip.MustParseAddr(c.src), netip.MustParseAddrPort(c.local), c.n, c.within)
		if ok != (c.why == "") || why != c.why {
			t.Errorf("%d from %s to %s in %v: %v, %q, want %q", c.n, c.src, c.local, c.within, ok, why, c.why)
		}
	}
	p.Mode = Observe
	if ok, why := p.Admits(netip.MustParseAddr("203.0.113.9"), netip.MustParseAddrPort("10.0.0.1:22"), 9, 0); !ok {
		t.Errorf("observe refuses: %s", why)
	}
}

// What is over a limit is refused or not by what the limit says happens then.
func TestAdmitsByLimit(t *testing.T) {
	for limit, most := range map[string]int{
		`{per: source, new: 5/h}`:                                    5,
		`{per: source, new: 5/h, burst: 2}`:                          2,
		`{per: source, new: 5/h, over: reset, count_rejected: true}`: 5,
		`{per: source, new: 5/h, over: observe}`:                     1000,
		`{per: source, new: 5/h, over: challenge}`:                   5,
		`{per: destination, new: 5/h, over: challenge}`:              1000,
		`{per: service, new: 5/h, over: challenge}`:                  1000,
		`{per: service, new: 5/h}`:                                   5,
		`{per: service, new: 5/h, exempt: verified}`:                 1000,
		`{per: source, new: 5/h, except: [198.51.100.0/24]}`:         1000,
		`{per: source, new: 5/h, from: [198.51.100.0/25]}`:           5,
		`{per: source, new: 5/h, from: [198.51.100.128/25]}`:         1000,
		`{per: source, concurrent: 7}`:                               7,
		`{per: source, packets: 90/h}`:                               2,
		`{per: source, bytes_in: 31kB/h}`:                            3,
		`{per: source, bytes_out: 1880B/h}`:                          1000,
		`{per: source, new: 5/h, strict: true}`:                      2,
		`{per: source, new: 1/h, strict: true}`:                      1,
	} {
		p := mustParse(t, "version: 1\nservices: [{name: a, listen: [any/tcp], limits: ["+limit+"]}]")
		got := 0
		for got < 1000 {
			ok, why := p.Admits(netip.MustParseAddr("198.51.100.9"), netip.MustParseAddrPort("[::1]:1"), got+1, 0)
			if !ok {
				if want := "service a, limit 1: "; len(why) <= len(want) || why[:len(want)] != want {
					t.Errorf("%s: why is %q", limit, why)
				}
				break
			}
			got++
		}
		if got != most {
			t.Errorf("%s admits %d at once, want %d", limit, got, most)
		}
	}
}

// The allow list of a service passes its limits and the global ones, and the block list comes first.
func TestAdmitsAllowedOfService(t *testing.T) {
	p := mustParse(t, `version: 1
services: [{name: a, listen: [1/tcp], allow: [192.0.2.0/24], limits: [{per: source, new: 1/h}]}, {name: b, listen: [2/tcp]}]
global: {limits: [{per: source, new: 2/h}]}
block: [192.0.2.1]
`)
	for _, c := range []struct {
		src, local string
		n          int
		why        string
	}{
		{"192.0.2.9", "[::1]:1", 9, ""}, {"192.0.2.9", "[::1]:2", 9, "global limit 1: new 2/h burst 2"},
		{"192.0.2.1", "[::1]:1", 1, "block has 192.0.2.1"}, {"198.51.100.1", "[::1]:1", 2, "service a, limit 1: new 1/h burst 1"},
	} {
		ok, why := p.Admits(netip.MustParseAddr(c.src), netip.MustParseAddrPort(c.local), c.n, 0)
		if ok != (c.why == "") || why != c.why {
			t.Errorf("%d from %s to %s: %v, %q, want %q", c.n, c.src, c.local, ok, why, c.why)
		}
	}
}

// An exempt source has to come back within ten minutes.
func TestAdmitsExemptForTenMinutes(t *testing.T) {
	p := mustParse(t, "version: 1\nservices: [{name: a, listen: [any/tcp], limits: [{per: service, new: 1/d, exempt: verified}]}]")
	src, local := netip.MustParseAddr("198.51.100.9"), netip.MustParseAddrPort("192.0.2.1:1")
	if ok, _ := p.Admits(src, local, 3, 20*time.Minute); !ok {
		t.Error("refused after ten minutes")
	}
	if ok, _ := p.Admits(src, local, 3, 20*time.Minute+2); ok {
		t.Error("admitted after more than ten minutes")
	}
}
