// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

// Status is the state of an instance as it is now.
type Status struct {
	Now        time.Time
	Interfaces []datapath.Interface
	Policy     datapath.Policy
	Totals     []datapath.Total
}

// Whole reports whether every interface is armed and its traffic goes through the program.
func (s Status) Whole() bool {
	for _, i := range s.Interfaces {
		if !i.Armed || i.Traffic != datapath.TrafficFlowing {
			return false
		}
	}
	return len(s.Interfaces) > 0
}

// Text writes the screen that a person reads.
func (s Status) Text(w io.Writer) error {
	if err := s.writeInterfaces(w); err != nil {
		return err
	}
	lines := Limit(s.Policy.Limit)
	if s.Policy.Table != nil {
		lines += "\n" + Table(s.Policy.Table)
	}
	_, err := fmt.Fprintf(w, "\npolicy: generation %d, %s\n%s\n\n", s.Policy.Generation, printable(s.Policy.Mode), lines)
	if err != nil {
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

func (s Status) writeInterfaces(w io.Writer) error {
	interfaces := s.sorted()
	elsewhere := slices.ContainsFunc(interfaces, func(i datapath.Interface) bool { return i.Netns != "" })
	t := newTable("interface", "mode", "armed", "traffic", "received", "judged", "attached")
	if elsewhere {
		t.rows[0] = append(t.rows[0], "netns")
	}
	for _, i := range interfaces {
		cells := []string{i.Name, string(i.Mode), yesNo(i.Armed), string(i.Traffic), count(i.Received), count(i.Judged),
			ago(s.Now, i.AttachedAt)}
		if elsewhere {
			cells = append(cells, orDash(i.Netns))
		}
		t.row(cells...)
	}
	if err := t.write(w); err != nil {
		return err
	}
	for _, i := range interfaces {
		if i.Why == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", printable(i.Name), printable(i.Why)); err != nil {
			return err
		}
	}
	return nil
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
}

type limitJSON struct {
	Per   string `json:"per"`
	New   string `json:"new"`
	Burst uint64 `json:"burst"`
}

type serviceJSON struct {
	Name   string      `json:"name"`
	Limits []limitJSON `json:"limits"`
}

type policyJSON struct {
	Generation uint32        `json:"generation"`
	Mode       string        `json:"mode"`
	Services   []serviceJSON `json:"services"`
	// Pending is null: there is no change yet that waits to be confirmed.
	Pending *struct{} `json:"pending"`
}

// JSON writes the document of `status`.
func (s Status) JSON(w io.Writer) error {
	interfaces := []interfaceJSON{}
	for _, i := range s.sorted() {
		interfaces = append(interfaces, interfaceJSON{
			Name: i.Name, Ifindex: i.Ifindex, Netns: optional(i.Netns), Mode: string(i.Mode), Armed: i.Armed,
			Traffic: string(i.Traffic), Why: optional(i.Why), Received: i.Received, Judged: i.Judged,
			AttachedAt: timestamp(i.AttachedAt),
		})
	}
	service := serviceJSON{Name: datapath.DefaultService, Limits: []limitJSON{}}
	if l := s.Policy.Limit; l != nil {
		service.Limits = append(service.Limits, limitJSON{Per: "source", New: l.Rate.String(), Burst: l.Burst})
	}
	return writeJSON(w, struct {
		Schema     int                          `json:"schema"`
		Interfaces []interfaceJSON              `json:"interfaces"`
		Policy     policyJSON                   `json:"policy"`
		Reasons    map[string]map[string]uint64 `json:"reasons"`
	}{schema, interfaces, policyJSON{
		Generation: s.Policy.Generation, Mode: s.Policy.Mode, Services: []serviceJSON{service},
	}, reasons(s.Totals)})
}
