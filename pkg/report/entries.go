// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// Entries is one of the two lists.
type Entries struct {
	Now     time.Time
	List    datapath.List
	Entries []datapath.Entry
}

// sorted are the entries by prefix.
func (e Entries) sorted() []datapath.Entry {
	return slices.SortedStableFunc(slices.Values(e.Entries), func(a, b datapath.Entry) int {
		return order(a.Prefix, b.Prefix)
	})
}

// Text writes a table.
func (e Entries) Text(w io.Writer) error {
	t := newTable("prefix", "scope", "expires", "hits", "created", "origin", "by", "reason")
	if e.List == datapath.Allow {
		t = newTable("prefix", "expires", "hits", "created", "origin", "by", "reason")
	}
	for _, entry := range e.sorted() {
		cells := []string{policy.FormatPrefix(entry.Prefix)}
		if e.List == datapath.Block {
			cells = append(cells, scopeInWords(entry))
		}
		t.row(append(cells, Until(e.Now, entry.Expires), count(entry.Hits), Ago(e.Now, entry.Created),
			orDash(entry.Origin), orDash(entry.By), orDash(entry.Reason))...)
	}
	return t.write(w)
}

// scopeInWords is what of a source a block covers: all, new, or what goes to one service.
func scopeInWords(e datapath.Entry) string {
	if e.Ban != nil && e.Ban.Only {
		return "service " + e.Ban.Service
	}
	return string(e.Scope)
}

// blockRow adds what only blocks have.
func blockRow(row allowJSON, e datapath.Entry) blockJSON {
	out := blockJSON{allowJSON: row, Scope: string(e.Scope)}
	if e.Ban == nil {
		return out
	}
	out.Strikes = e.Ban.Strikes
	if e.Ban.Only {
		out.Service = &e.Ban.Service
	}
	return out
}

// Plain writes one prefix a line, each once, which `add` and `rm` take as arguments and `feed load` as a file. Bans are
// left out, or they would be made blocks that do not end.
func (e Entries) Plain(w io.Writer) error {
	var last netip.Prefix
	for _, entry := range e.sorted() {
		if entry.Ban != nil || entry.Prefix == last {
			continue
		}
		last = entry.Prefix
		if _, err := fmt.Fprintln(w, policy.FormatPrefix(entry.Prefix)); err != nil {
			return err
		}
	}
	return nil
}

// Bans is how many bans are among them.
func (e Entries) Bans() (n int) {
	for _, entry := range e.Entries {
		if entry.Ban != nil {
			n++
		}
	}
	return n
}

type allowJSON struct {
	Prefix  string    `json:"prefix"`
	Origin  string    `json:"origin"`
	Reason  optional  `json:"reason"`
	Created timestamp `json:"created"`
	By      optional  `json:"by"`
	Expires timestamp `json:"expires"`
	Hits    uint64    `json:"hits"`
}

type blockJSON struct {
	allowJSON
	Scope string `json:"scope"`
	// Service is null: the block covers all services.
	Service *string `json:"service"`
	Strikes uint64  `json:"strikes"`
}

// JSON writes the document of `block list` or `allow list`.
func (e Entries) JSON(w io.Writer) error {
	allows, blocks := []allowJSON{}, []blockJSON{}
	for _, entry := range e.sorted() {
		row := allowJSON{
			Prefix: entry.Prefix.String(), Origin: entry.Origin, Reason: optional(entry.Reason),
			Created: timestamp(entry.Created), By: optional(entry.By), Expires: timestamp(entry.Expires), Hits: entry.Hits,
		}
		allows = append(allows, row)
		blocks = append(blocks, blockRow(row, entry))
	}
	if e.List == datapath.Allow {
		return writeJSON(w, struct {
			Schema int         `json:"schema"`
			Allows []allowJSON `json:"allows"`
		}{schema, allows})
	}
	return writeJSON(w, struct {
		Schema int         `json:"schema"`
		Blocks []blockJSON `json:"blocks"`
	}{schema, blocks})
}
