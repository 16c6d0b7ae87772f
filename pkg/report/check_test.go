// SPDX-License-Identifier: Apache-2.0

package report

import (
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

func check(v datapath.Verdict) Check {
	return Check{
		Now: now(), Addr: netip.MustParseAddr("192.0.2.1"), Verdict: v, Program: "synward",
		Policy: datapath.Policy{Mode: "enforce", Limit: limit()},
	}
}

func TestCheck(t *testing.T) {
	blocked := entries(datapath.Block).sorted()[1]
	blocked.Reason = "scanner"
	free := check(datapath.Verdict{Verdict: "pass", Reason: "under_limit"})
	free.Policy.Limit = nil
	observed := check(datapath.Verdict{Verdict: "pass", Reason: "over_new", Until: now().Add(time.Second)})
	observed.Policy.Mode = "observe"
	for file, c := range map[string]Check{
		"check-under":    check(datapath.Verdict{Verdict: "pass", Reason: "under_limit", Left: 42}),
		"check-no-limit": free,
		"check-over": check(datapath.Verdict{
			Verdict: "drop", Reason: "over_new", Until: now().Add(1500 * time.Millisecond),
		}),
		"check-blocked": check(datapath.Verdict{
			Verdict: "drop", Reason: "blocked", Until: now().Add(10 * time.Minute), Entry: &blocked,
		}),
		"check-allowed":    check(datapath.Verdict{Verdict: "pass", Reason: "allowed", Entry: &blocked}),
		"check-observed":   observed,
		"check-table-full": check(datapath.Verdict{Verdict: "drop", Reason: "table_full"}),
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
	c := check(datapath.Verdict{Verdict: "drop", Reason: "over_new"})
	c.Program = "synward --pin-dir /mnt/bpf/two"
	if got, want := c.Lift(), "synward --pin-dir /mnt/bpf/two forget 192.0.2.1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
