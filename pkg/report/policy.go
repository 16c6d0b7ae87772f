// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// PolicyText is the policy in force as a file that can be applied again.
type PolicyText struct {
	Policy datapath.Policy
}

// limitLine is how the line of a limit begins in what policy.YAML writes, and no other line.
const limitLine = "- {per: "

// YAML writes the file, with the worst window of each limit in words as a comment behind it.
func (p PolicyText) YAML(w io.Writer) error {
	limits := allLimits(p.Policy.Policy)
	for line := range strings.Lines(string(p.Policy.Policy.YAML())) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(strings.TrimLeft(line, " "), limitLine) && len(limits) > 0 {
			line += "  # " + limits[0].WorstWindow()
			limits = limits[1:]
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// allLimits are the limits of a policy in the order of its file.
func allLimits(p *policy.Policy) []policy.Limit {
	var all []policy.Limit
	for _, s := range p.Services {
		all = append(all, s.Limits...)
	}
	return append(all, p.Global.Limits...)
}

// JSON writes the document of `policy`.
func (p PolicyText) JSON(w io.Writer) error {
	return writeJSON(w, struct {
		Schema int `json:"schema"`
		policyJSON
		YAML string `json:"yaml"`
	}{schema, newPolicyJSON(p.Policy), string(p.Policy.Policy.YAML())})
}

type limitJSON struct {
	Kind string `json:"kind"`
	Per  string `json:"per"`
	// Rate is as in the policy file; New is the same for limits of new connections, else null.
	Rate  optional `json:"rate"`
	New   optional `json:"new"`
	Burst uint64   `json:"burst"`
	// Concurrent is null for limits of other kinds.
	Concurrent  *uint64 `json:"concurrent"`
	Over        string  `json:"over"`
	Words       string  `json:"words"`
	WorstWindow string  `json:"worst_window"`
}

func newLimitJSON(l policy.Limit) limitJSON {
	out := limitJSON{
		Kind: string(l.Kind), Per: string(l.Per), Burst: l.Burst, Over: string(l.Over), Words: l.Words(), WorstWindow: l.WorstWindow(),
	}
	switch l.Kind {
	case policy.KindConcurrent:
		out.Concurrent = &l.Concurrent
	case policy.KindBytesIn, policy.KindBytesOut:
		out.Rate = optional(policy.FormatByteRate(l.Rate))
	default:
		out.Rate = optional(l.Rate.String())
	}
	if l.Kind == policy.KindNew {
		out.New = out.Rate
	}
	return out
}

func newLimitsJSON(limits []policy.Limit) []limitJSON {
	out := make([]limitJSON, len(limits))
	for n, l := range limits {
		out[n] = newLimitJSON(l)
	}
	return out
}

type serviceJSON struct {
	Name   string      `json:"name"`
	Listen []string    `json:"listen"`
	Limits []limitJSON `json:"limits"`
}

type pendingJSON struct {
	By          string `json:"by"`
	LeftSeconds int64  `json:"left_seconds"`
	Fallback    uint16 `json:"fallback"`
}

type policyJSON struct {
	Generation uint16        `json:"generation"`
	Mode       string        `json:"mode"`
	Services   []serviceJSON `json:"services"`
	// Global are the limits across all services.
	Global  []limitJSON  `json:"global"`
	Pending *pendingJSON `json:"pending"`
}

func newPolicyJSON(p datapath.Policy) policyJSON {
	out := policyJSON{
		Generation: p.Generation, Mode: p.Mode, Services: []serviceJSON{}, Global: newLimitsJSON(p.Policy.Global.Limits),
	}
	for _, s := range p.Policy.Services {
		out.Services = append(out.Services, serviceJSON{s.Name, listens(s.Listen), newLimitsJSON(s.Limits)})
	}
	if p.Pending != nil {
		out.Pending = &pendingJSON{p.Pending.By, wholeSeconds(p.Pending.Left), p.Pending.Fallback}
	}
	return out
}

// wholeSeconds rounds up, so that 0 is over.
func wholeSeconds(d time.Duration) int64 { return int64((max(d, 0) + time.Second - 1) / time.Second) }

func listens(all []policy.Listen) []string {
	words := make([]string, len(all))
	for n, l := range all {
		words[n] = l.String()
	}
	return words
}

// Kept are the policies that can be gone back to, the one in force first.
type Kept struct {
	Now      time.Time
	Policies []datapath.Applied
}

// Text writes a table.
func (k Kept) Text(w io.Writer) error {
	t := newTable("rollback", "generation", "applied", "by", "holds")
	for n, p := range k.Policies {
		back := strconv.Itoa(n)
		if n == 0 {
			back = "in force"
		}
		t.row(back, count(uint64(p.Generation)), Ago(k.Now, p.At), orDash(p.By), Summary(p.Policy))
	}
	return t.write(w)
}

type keptJSON struct {
	Generation uint16    `json:"generation"`
	InForce    bool      `json:"in_force"`
	Rollback   int       `json:"rollback"`
	Applied    timestamp `json:"applied"`
	By         optional  `json:"by"`
}

// JSON writes the document of `policy --list`.
func (k Kept) JSON(w io.Writer) error {
	policies := make([]keptJSON, len(k.Policies))
	for n, p := range k.Policies {
		policies[n] = keptJSON{p.Generation, n == 0, n, timestamp(p.At), optional(p.By)}
	}
	return writeJSON(w, struct {
		Schema   int        `json:"schema"`
		Policies []keptJSON `json:"policies"`
	}{schema, policies})
}

// Summary says how much a policy holds: "2 services, 3 limits".
func Summary(p *policy.Policy) string {
	text := plural(len(p.Services), "service") + ", " + plural(len(allLimits(p)), "limit")
	if p.Mode == policy.Observe {
		text += ", observe"
	}
	return text
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
