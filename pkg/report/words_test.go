// SPDX-License-Identifier: Apache-2.0

package report

import (
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0ms", 0: "0ms", 999 * time.Millisecond: "999ms", time.Second: "1s", 61 * time.Second: "1m1s",
		2 * time.Hour: "2h", 2*time.Hour + 59*time.Second: "2h", 49*time.Hour + time.Minute: "2d1h",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_950: "1.0 MB", 296_000_000: "296.0 MB",
		1<<64 - 1: "18.4 EB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func TestUntil(t *testing.T) {
	for at, want := range map[time.Time]string{
		{}: "never", now(): "now", now().Add(-time.Hour): "now", now().Add(90 * time.Second): "in 1m30s",
	} {
		if got := Until(now(), at); got != want {
			t.Errorf("%v: got %s, want %s", at, got, want)
		}
	}
}

func TestBansWithoutRoomAreSaid(t *testing.T) {
	if got := Troubles(datapath.Policy{Unbanned: 1}); len(got) != 1 || !strings.HasPrefix(got[0], "1 ban not made, for there was no room") {
		t.Errorf("%q", got)
	}
	if got := Troubles(datapath.Policy{}); len(got) != 0 {
		t.Errorf("%q", got)
	}
}
