// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// verdictDrop is the verdict of a new connection that would be refused.
const verdictDrop = "drop"

// Check is what would happen to the next new connection of an address.
type Check struct {
	Now     time.Time
	Addr    netip.Addr
	Verdict datapath.Verdict
	// Policy is what is in force.
	Policy datapath.Policy
	// Program is how the command is called, as "synward".
	Program string
}

// Refused reports whether the connection would be refused.
func (c Check) Refused() bool { return c.Verdict.Verdict == verdictDrop }

// Lift is the command that lets the address in, empty if it is not refused.
func (c Check) Lift() string {
	if !c.Refused() {
		return ""
	}
	switch {
	case c.Verdict.Reason == "blocked" && c.Verdict.Entry != nil:
		return fmt.Sprintf("%s block rm %s", c.Program, policy.FormatPrefix(c.Verdict.Entry.Prefix))
	case c.Verdict.Reason == "over_new":
		return fmt.Sprintf("%s forget %s", c.Program, c.Addr)
	}
	return fmt.Sprintf("%s allow add %s", c.Program, c.Addr)
}

// why is the reason in words.
func (c Check) why() string {
	v, limit := c.Verdict, c.Policy.Limit
	switch {
	case v.Entry != nil && v.Reason == "allowed":
		return "on the allow list as " + entryInWords(*v.Entry)
	case v.Entry != nil && v.Reason == "blocked":
		return "on the block list as " + entryInWords(*v.Entry)
	case v.Reason == "over_new" && limit != nil:
		return fmt.Sprintf("over the limit of new connections, %s", limit)
	case v.Reason == "under_limit" && limit == nil:
		return "no limit is in force"
	case v.Reason == "under_limit":
		return fmt.Sprintf("under the limit of new connections, %s; %d more would pass now", limit, v.Left)
	case v.Reason == "table_full":
		return "not known to the limiter, whose table is full"
	}
	return v.Reason
}

func entryInWords(e datapath.Entry) string {
	text := policy.FormatPrefix(e.Prefix)
	if e.By != "" {
		text += " by " + e.By
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Text writes the answer in words.
func (c Check) Text(w io.Writer) error {
	answer := "would pass"
	if c.Refused() {
		answer = "would be refused"
	}
	lines := [][2]string{{"why", c.why()}}
	if c.Policy.Mode == "observe" {
		lines = append(lines, [2]string{"mode", "observe: everything is counted, nothing is refused"})
	}
	if until := c.Verdict.Until; !until.IsZero() {
		lines = append(lines, [2]string{"until", fmt.Sprintf("%s (%s)",
			until.In(c.Now.Location()).Format(time.DateTime), Until(c.Now, until))})
	}
	if lift := c.Lift(); lift != "" {
		lines = append(lines, [2]string{"lift", lift})
	}
	if _, err := fmt.Fprintf(w, "a new connection from %s %s (%s)\n", c.Addr, answer, c.Verdict.Reason); err != nil {
		return err
	}
	for _, line := range lines {
		if _, err := fmt.Fprintf(w, "%-6s %s\n", line[0]+":", printable(line[1])); err != nil {
			return err
		}
	}
	return nil
}

// JSON writes the document of `check`.
func (c Check) JSON(w io.Writer) error {
	var left *uint64
	if c.Policy.Limit != nil && c.Verdict.Entry == nil {
		left = &c.Verdict.Left
	}
	return writeJSON(w, struct {
		Schema  int       `json:"schema"`
		Source  string    `json:"source"`
		Verdict string    `json:"verdict"`
		Reason  string    `json:"reason"`
		Until   timestamp `json:"until"`
		Lift    optional  `json:"lift"`
		Left    *uint64   `json:"left"`
	}{schema, c.Addr.String(), c.Verdict.Verdict, c.Verdict.Reason, timestamp(c.Verdict.Until), optional(c.Lift()), left})
}
