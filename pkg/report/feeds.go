// SPDX-License-Identifier: Apache-2.0

package report

import (
	"io"
	"strconv"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

// Feeds are the lists of others that were loaded.
type Feeds struct {
	Now   time.Time
	Feeds []datapath.Feed
}

// Text writes a table.
func (f Feeds) Text(w io.Writer) error {
	t := newTable("feed", "list", "scope", "entries", "expires", "loaded", "by")
	for _, one := range f.Feeds {
		t.row(one.Name, one.List.String(), string(one.Scope), strconv.Itoa(one.Entries), Until(f.Now, one.Expires),
			Ago(f.Now, one.Loaded), orDash(one.By))
	}
	return t.write(w)
}

type feedJSON struct {
	Name    string    `json:"name"`
	List    string    `json:"list"`
	Scope   string    `json:"scope"`
	Entries int       `json:"entries"`
	Expires timestamp `json:"expires"`
	Loaded  timestamp `json:"loaded"`
	By      optional  `json:"by"`
}

// JSON writes the document of `feed list`.
func (f Feeds) JSON(w io.Writer) error {
	rows := []feedJSON{}
	for _, one := range f.Feeds {
		rows = append(rows, feedJSON{
			Name: one.Name, List: one.List.String(), Scope: string(one.Scope), Entries: one.Entries,
			Expires: timestamp(one.Expires), Loaded: timestamp(one.Loaded), By: optional(one.By),
		})
	}
	return writeJSON(w, struct {
		Schema int        `json:"schema"`
		Feeds  []feedJSON `json:"feeds"`
	}{schema, rows})
}
