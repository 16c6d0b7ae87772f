// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

func check(v datapath.Verdict) Check {
	return Check{
		Now: now(), Addr: netip.MustParseAddr("192.0.2.1"), Verdict: v, Program: "synward",
		Policy: datapath.Policy{Mode: "enforce", Policy: policy.Default(limit())},
	}
}

// limited is the verdict with the only limit of the only service.
func limited(v datapath.Verdict) datapath.Verdict {
	v.Service, v.LimitName, v.Limit = "default", "default limit 1", &policy.Default(limit()).Services[0].Limits[0]
	return v
}

// many is a check against a policy of several services.
func many(v datapath.Verdict) Check {
	c := check(v)
	c.Policy.Policy = webPolicy()
	return c
}

// decided is the verdict of a limit of webPolicy.
func decided(v datapath.Verdict, service string, n int) datapath.Verdict {
	for _, s := range webPolicy().Services {
		if s.Name == service {
			v.Service, v.LimitName, v.Limit = service, fmt.Sprintf("%s limit %d", service, n+1), &s.Limits[n]
		}
	}
	return v
}

func TestCheck(t *testing.T) {
	blocked := entries(datapath.Block).sorted()[1]
	blocked.Reason = "scanner"
	byPolicy := datapath.Entry{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Origin: "policy"}
	byFeed := datapath.Entry{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Origin: "feed:drop", By: "ann"}
	free := check(datapath.Verdict{Verdict: "pass", Reason: "under_limit"})
	free.Policy.Policy = policy.Default(nil)
	observed := check(limited(datapath.Verdict{Verdict: "pass", Reason: "over_new", Until: now().Add(time.Second)}))
	observed.Policy.Mode = "observe"
	for file, c := range map[string]Check{
		"check-under":    check(limited(datapath.Verdict{Verdict: "pass", Reason: "under_limit", Left: 42})),
		"check-no-limit": free,
		"check-over": check(limited(datapath.Verdict{
			Verdict: "drop", Reason: "over_new", Until: now().Add(1500 * time.Millisecond),
		})),
		"check-blocked": check(datapath.Verdict{
			Verdict: "drop", Reason: "blocked", Until: now().Add(10 * time.Minute), Entry: &blocked,
		}),
		"check-allowed":    check(datapath.Verdict{Verdict: "pass", Reason: "allowed", Entry: &blocked}),
		"check-observed":   observed,
		"check-table-full": check(limited(datapath.Verdict{Verdict: "drop", Reason: "table_full"})),

		"check-policy-blocked":  many(datapath.Verdict{Verdict: "drop", Reason: "blocked", Entry: &byPolicy}),
		"check-feed-blocked":    many(datapath.Verdict{Verdict: "drop", Reason: "blocked", Entry: &byFeed}),
		"check-service-allowed": many(datapath.Verdict{Verdict: "pass", Reason: "allowed", Service: "ssh"}),
		"check-no-service":      many(datapath.Verdict{Verdict: "pass", Reason: "no_service"}),
		"check-free-service":    many(datapath.Verdict{Verdict: "pass", Reason: "under_limit", Service: "open"}),
		"check-web-under":       many(decided(datapath.Verdict{Verdict: "pass", Reason: "under_limit", Left: 7}, "web", 1)),
		"check-web-over": many(decided(datapath.Verdict{
			Verdict: "drop", Reason: "over_new", Until: now().Add(time.Minute),
		}, "web", 0)),
		"check-whole-service": many(decided(datapath.Verdict{Verdict: "drop", Reason: "over_new"}, "web", 2)),
	} {
		golden(t, file+".txt", c.Text)
		golden(t, file+".json", c.JSON)
		if c.Refused() != (c.Verdict.Verdict == "drop") || c.Refused() != (c.Lift() != "") {
			t.Errorf("%s: refused %v, lift %q", file, c.Refused(), c.Lift())
		}
	}
}

// The command that lifts a refusal means the same instance.
func TestLiftNamesTheInstance(t *testing.T) {
	c := check(limited(datapath.Verdict{Verdict: "drop", Reason: "over_new"}))
	c.Program = "synward --pin-dir /mnt/bpf/two"
	if got, want := c.Lift(), "synward --pin-dir /mnt/bpf/two forget 192.0.2.1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
