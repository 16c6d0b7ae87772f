// SPDX-License-Identifier: Apache-2.0

package report

import (
	"io"
	"slices"

	"github.com/synward/synward/pkg/datapath"
)

// Findings is what a check of the kernel or of an interface found, in the order of the check.
type Findings []datapath.Finding

// OK reports whether nothing is missing.
func (f Findings) OK() bool {
	return !slices.ContainsFunc(f, func(one datapath.Finding) bool { return !one.OK })
}

// Text writes a table, and below each row that is not well what to do.
func (f Findings) Text(w io.Writer) error {
	t := newTable("check", "ok", "detail")
	for _, one := range f {
		t.row(one.Name, yesNo(one.OK), orDash(one.Detail))
		if !one.OK && one.Fix != "" {
			t.row("", "", "to mend: "+one.Fix)
		}
	}
	return t.write(w)
}

type findingJSON struct {
	Name   string   `json:"name"`
	OK     bool     `json:"ok"`
	Detail optional `json:"detail"`
	Fix    optional `json:"fix"`
}

// JSON writes the document of `doctor`.
func (f Findings) JSON(w io.Writer) error {
	findings := make([]findingJSON, 0, len(f))
	for _, one := range f {
		findings = append(findings, findingJSON{one.Name, one.OK, optional(one.Detail), optional(one.Fix)})
	}
	return writeJSON(w, struct {
		Schema   int           `json:"schema"`
		OK       bool          `json:"ok"`
		Findings []findingJSON `json:"findings"`
	}{schema, f.OK(), findings})
}
