// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// verdictDrop is the verdict of a new connection that would be refused.
const verdictDrop = "drop"

// verdictChallenge is that of one that must answer first.
const verdictChallenge = "challenge"

// Check is what would happen to the next new connection of an address.
type Check struct {
	Now     time.Time
	Addr    netip.Addr
	Verdict datapath.Verdict
	// Policy is what is in force.
	Policy datapath.Policy
	// Strikes are those that count now, by the name of the limit.
	Strikes map[string]uint64
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
	v := c.Verdict
	switch {
	case v.Reason == "blocked" && v.Entry != nil && removable(*v.Entry):
		return fmt.Sprintf("%s block rm %s", c.Program, policy.FormatPrefix(v.Entry.Prefix))
	case v.Reason != "over_concurrent" && strings.HasPrefix(v.Reason, "over_") && v.Limit != nil && v.Limit.Per == policy.PerSource:
		return fmt.Sprintf("%s forget %s", c.Program, c.Addr)
	}
	return fmt.Sprintf("%s allow add %s", c.Program, c.Addr)
}

// removable: `block rm` takes the entry off; what the policy or a feed names stays.
func removable(e datapath.Entry) bool {
	_, ofFeed := datapath.FeedOfOrigin(e.Origin)
	return !ofFeed && e.Origin != originPolicy
}

// originPolicy is the origin of the entries of the policy in force.
const originPolicy = "policy"

// why is the reason in words.
func (c Check) why() string {
	v := c.Verdict
	switch {
	case v.Entry != nil && v.Reason == "allowed":
		return "on the allow list as " + entryInWords(*v.Entry)
	case v.Entry != nil && v.Reason == "blocked":
		return "on the block list as " + entryInWords(*v.Entry)
	case v.Reason == "allowed":
		return fmt.Sprintf("service %s allows it", v.Service)
	case v.Reason == "no_service":
		return "no service listens there, so nothing is limited"
	case v.Reason == "under_limit" && v.Limit == nil && len(allLimits(c.Policy.Policy)) == 0:
		return "no limit is in force"
	case v.Reason == "under_limit" && v.Limit == nil:
		return fmt.Sprintf("service %s has no limit that applies", v.Service)
	case v.Reason == "under_limit":
		return fmt.Sprintf("under %s; %d more would pass now", c.limit(), v.Left)
	case v.Reason == "table_full":
		return "not known to the limiter, whose table is full"
	case v.Reason == "exempt" && v.Limit != nil:
		return fmt.Sprintf("over %s; exempt, for it completed a handshake here of late", c.limit())
	case v.Limit != nil:
		return "over " + c.limit()
	}
	return v.Reason
}

// limit names the limit that decides, and says what it is.
func (c Check) limit() string {
	l := c.Verdict.Limit
	if _, only := OnlyLimit(c.Policy.Policy); only {
		return fmt.Sprintf("the limit of new connections, %s", policy.NewLimit{Rate: l.Rate, Burst: l.Burst})
	}
	return fmt.Sprintf("%s, %s", c.Verdict.LimitName, l.Words())
}

func entryInWords(e datapath.Entry) string {
	text := policy.FormatPrefix(e.Prefix)
	if e.Origin == originPolicy {
		text += " of the policy"
	}
	if name, ok := datapath.FeedOfOrigin(e.Origin); ok {
		text += " of feed " + name
	}
	if e.Ban != nil {
		text += ", banned"
		if e.Ban.Only {
			text += " from " + e.Ban.Service
		}
	}
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
	switch {
	case c.Refused():
		answer = "would be refused"
	case c.Verdict.Verdict == verdictChallenge:
		answer = "would be challenged, and pass with the answer"
	}
	lines := [][2]string{{"why", c.why()}}
	if c.Policy.Mode == "observe" {
		lines = append(lines, [2]string{"mode", "observe: everything is counted, nothing is refused"})
	}
	if until := c.Verdict.Until; !until.IsZero() {
		lines = append(lines, [2]string{"until", fmt.Sprintf("%s (%s)",
			until.In(c.Now.Location()).Format(time.DateTime), Until(c.Now, until))})
	}
	for _, name := range slices.Sorted(maps.Keys(c.Strikes)) {
		lines = append(lines, [2]string{"strikes", fmt.Sprintf("%d at %s", c.Strikes[name], name)})
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

// strikes are those of all limits.
func (c Check) strikes() (sum uint64) {
	for _, n := range c.Strikes {
		sum += n
	}
	return sum
}

// JSON writes the document of `check`.
func (c Check) JSON(w io.Writer) error {
	var left *uint64
	if c.Verdict.Limit != nil {
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
		// Service and Limit are null where a list decides, Limit also where none applies.
		Service optional `json:"service"`
		Limit   optional `json:"limit"`
		// Strikes are those that count now, over all limits that ban.
		Strikes uint64 `json:"strikes"`
	}{
		schema, c.Addr.String(), c.Verdict.Verdict, c.Verdict.Reason, timestamp(c.Verdict.Until), optional(c.Lift()), left,
		optional(c.Verdict.Service), optional(c.Verdict.LimitName), c.strikes(),
	})
}
