// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// Status is the state of an instance as it is now.
type Status struct {
	Now        time.Time
	Interfaces []datapath.Interface
	Policy     datapath.Policy
	Totals     []datapath.Total
}

// Whole reports whether every interface is armed, its traffic goes through the program, and connections are counted
// if a limit asks for it.
func (s Status) Whole() bool {
	for _, i := range s.Interfaces {
		if !i.Armed || i.Traffic != datapath.TrafficFlowing {
			return false
		}
	}
	return len(s.Interfaces) > 0 && s.Policy.ConnTrouble == ""
}

// Text writes the screen that a person reads.
func (s Status) Text(w io.Writer) error {
	if err := s.writeInterfaces(w); err != nil {
		return err
	}
	if err := s.writePolicy(w); err != nil {
		return err
	}
	// The self tests are synward's own packets: what they showed stands under armed.
	counted := slices.DeleteFunc(nonzero(s.Totals), func(t datapath.Total) bool { return t.Reason == "self_test" })
	if len(counted) == 0 {
		_, err := fmt.Fprintln(w, "no packet has been judged yet")
		return err
	}
	return writeTotals(w, counted)
}

func (s Status) writePolicy(w io.Writer) error {
	lines := []string{fmt.Sprintf("policy: generation %d, %s", s.Policy.Generation, s.Policy.Mode)}
	if s.Policy.Pending != nil {
		lines[0] += "; " + Pending(s.Policy.Pending)
	}
	if limit, ok := OnlyLimit(s.Policy.Policy); ok {
		lines = append(lines, Limit(limit))
	} else {
		lines = append(lines, services(s.Policy.Policy)...)
	}
	lines = append(append(lines, Tables(s.Policy)...), Troubles(s.Policy)...)
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	for _, line := range append(lines, "") {
		if _, err := fmt.Fprintln(w, printable(line)); err != nil {
			return err
		}
	}
	return nil
}

// maxServices is how many services status shows: a screen.
const maxServices = 16

// services is the services of a policy with their limits, a line for each.
func services(p *policy.Policy) []string {
	var lines []string
	add := func(name string, limits []policy.Limit) {
		if len(limits) == 0 {
			name += ": no limit"
		}
		lines = append(lines, name)
		for _, l := range limits {
			lines = append(lines, fmt.Sprintf("  %s (%s)", l.Words(), l.WorstWindow()))
		}
	}
	for _, s := range p.Services[:min(len(p.Services), maxServices)] {
		add(fmt.Sprintf("%s, %s", s.Name, shortListens(s.Listen)), s.Limits)
	}
	if more := len(p.Services) - maxServices; more > 0 {
		lines = append(lines, plural(more, "more service")+"; `synward services` shows all")
	}
	if len(p.Global.Limits) > 0 {
		add("all services together", p.Global.Limits)
	}
	if len(lines) == 0 {
		lines = append(lines, "no services: only the lists decide")
	}
	return lines
}

func (s Status) writeInterfaces(w io.Writer) error {
	interfaces := s.sorted()
	elsewhere := slices.ContainsFunc(interfaces, func(i datapath.Interface) bool { return i.Netns != "" })
	t := newTable("interface", "mode", "armed", "traffic", "received", "judged", "attached")
	if elsewhere {
		t.rows[0] = append(t.rows[0], "netns")
	}
	for _, i := range interfaces {
		cells := []string{i.Name, string(i.Mode), yesNo(i.Armed), string(i.Traffic), count(i.Received), count(i.Judged),
			Ago(s.Now, i.AttachedAt)}
		if elsewhere {
			cells = append(cells, orDash(i.Netns))
		}
		t.row(cells...)
	}
	if err := t.write(w); err != nil {
		return err
	}
	for _, i := range interfaces {
		for _, line := range notes(i) {
			if _, err := fmt.Fprintf(w, "%s: %s\n", printable(i.Name), printable(line)); err != nil {
				return err
			}
		}
	}
	return nil
}

// notes is what is to be said of an interface beside its row.
func notes(i datapath.Interface) []string {
	var lines []string
	if i.Why != "" {
		lines = append(lines, i.Why)
	}
	if i.Unconfirmed && i.Left > 0 {
		lines = append(lines, Unconfirmed(i.Left))
	}
	return lines
}

// sorted are the interfaces of the caller's namespace first, then by namespace and name.
func (s Status) sorted() []datapath.Interface {
	return slices.SortedFunc(slices.Values(s.Interfaces), func(a, b datapath.Interface) int {
		return cmp.Or(cmp.Compare(a.Netns, b.Netns), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Ifindex, b.Ifindex))
	})
}

type interfaceJSON struct {
	Name       string    `json:"name"`
	Ifindex    int       `json:"ifindex"`
	Netns      optional  `json:"netns"`
	Mode       string    `json:"mode"`
	Armed      bool      `json:"armed"`
	Traffic    string    `json:"traffic"`
	Why        optional  `json:"why"`
	Received   uint64    `json:"received"`
	Judged     uint64    `json:"judged"`
	AttachedAt timestamp `json:"attached_at"`
	// Pending: it waits for its confirmation; with 0 seconds left it refuses nothing.
	Pending *unconfirmedJSON `json:"pending"`
}

type unconfirmedJSON struct {
	LeftSeconds int64 `json:"left_seconds"`
}

// JSON writes the document of `status`.
func (s Status) JSON(w io.Writer) error {
	interfaces := []interfaceJSON{}
	for _, i := range s.sorted() {
		row := interfaceJSON{
			Name: i.Name, Ifindex: i.Ifindex, Netns: optional(i.Netns), Mode: string(i.Mode), Armed: i.Armed,
			Traffic: string(i.Traffic), Why: optional(i.Why), Received: i.Received, Judged: i.Judged,
			AttachedAt: timestamp(i.AttachedAt),
		}
		if i.Unconfirmed {
			row.Pending = &unconfirmedJSON{wholeSeconds(i.Left)}
		}
		interfaces = append(interfaces, row)
	}
	return writeJSON(w, struct {
		Schema     int                          `json:"schema"`
		Interfaces []interfaceJSON              `json:"interfaces"`
		Policy     policyJSON                   `json:"policy"`
		Reasons    map[string]map[string]uint64 `json:"reasons"`
	}{schema, interfaces, newPolicyJSON(s.Policy), reasons(s.Totals)})
}
