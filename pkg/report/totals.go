// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

// Stats are the totals by reason, at one time or between two.
type Stats struct {
	// Since is when the counting began that Totals are of; zero stands for the first attach.
	Since  time.Time
	At     time.Time
	Totals []datapath.Total
}

// Between is what was counted between two totals. A total that went back, since synward was attached
// anew, counts from zero.
func Between(before, after []datapath.Total) []datapath.Total {
	old := make(map[string]datapath.Total, len(before))
	for _, t := range before {
		old[t.Reason] = t
	}
	moved := make([]datapath.Total, 0, len(after))
	for _, t := range after {
		b := old[t.Reason]
		d := datapath.Total{Reason: t.Reason, Actions: make(map[string]uint64, len(t.Actions))}
		d.Packets, d.Bytes = since(b.Packets, t.Packets), since(b.Bytes, t.Bytes)
		for action, n := range t.Actions {
			d.Actions[action] = since(b.Actions[action], n)
		}
		moved = append(moved, d)
	}
	return moved
}

func since(before, after uint64) uint64 {
	if after < before {
		return after
	}
	return after - before
}

// Text writes a table: totals, or rates where Since is set.
func (s Stats) Text(w io.Writer) error {
	if s.Since.IsZero() {
		return writeTotals(w, s.Totals)
	}
	seconds := s.At.Sub(s.Since).Seconds()
	if seconds <= 0 {
		return fmt.Errorf("show rates: no time has passed")
	}
	if _, err := fmt.Fprintf(w, "%s, %s\n", s.At.Format(time.TimeOnly), Duration(s.At.Sub(s.Since))); err != nil {
		return err
	}
	t := newTable("reason", "packets", "packets/s", "bits/s", "actions")
	for _, total := range nonzero(s.Totals) {
		t.row(total.Reason, count(total.Packets), fmt.Sprintf("%.1f", float64(total.Packets)/seconds),
			fmt.Sprintf("%.0f", float64(total.Bytes)*8/seconds), actions(total))
	}
	if len(t.rows) == 1 {
		t.row("none", "0", "0", "0", "-")
	}
	return t.write(w)
}

// JSON writes one document on one line.
func (s Stats) JSON(w io.Writer) error {
	return writeJSONLine(w, struct {
		Schema  int                          `json:"schema"`
		Since   timestamp                    `json:"since"`
		Time    timestamp                    `json:"time"`
		Reasons map[string]map[string]uint64 `json:"reasons"`
	}{schema, timestamp(s.Since), timestamp(s.At), reasons(s.Totals)})
}

// writeTotals writes one row for each total.
func writeTotals(w io.Writer, totals []datapath.Total) error {
	t := newTable("reason", "packets", "bytes", "actions")
	for _, total := range totals {
		t.row(total.Reason, count(total.Packets), size(total.Bytes), actions(total))
	}
	return t.write(w)
}

func nonzero(totals []datapath.Total) []datapath.Total {
	return slices.DeleteFunc(slices.Clone(totals), func(t datapath.Total) bool {
		return t.Packets == 0 && t.Bytes == 0
	})
}

// actions says what was done, as in "drop 12, observe 3".
func actions(t datapath.Total) string {
	var parts []string
	for _, action := range slices.Sorted(maps.Keys(t.Actions)) {
		if n := t.Actions[action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", action, n))
		}
	}
	return orDash(strings.Join(parts, ", "))
}

// reasons is the shape of totals in JSON: every action under its name beside packets and bytes.
func reasons(totals []datapath.Total) map[string]map[string]uint64 {
	all := make(map[string]map[string]uint64, len(totals))
	for _, t := range totals {
		fields := map[string]uint64{
			"packets": t.Packets, "bytes": t.Bytes,
			"pass": 0, "drop": 0, "reset": 0, "challenge": 0, "probe": 0, "observe": 0,
		}
		maps.Copy(fields, t.Actions)
		all[t.Reason] = fields
	}
	return all
}
