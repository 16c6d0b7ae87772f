// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

func TestFeeds(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f := Feeds{Now: now, Feeds: []datapath.Feed{
		{Name: "drop", List: datapath.Block, Scope: datapath.ScopeAll, Loaded: now.Add(-time.Minute), By: "ann", Entries: 1100000},
		{Name: "friends", List: datapath.Allow, Scope: datapath.ScopeAll, Loaded: now.Add(-time.Hour), Expires: now.Add(time.Hour), Entries: 1},
	}}
	var text, json bytes.Buffer
	if err := f.Text(&text); err != nil {
		t.Fatal(err)
	}
	wantText := `feed     list   scope  entries  expires  loaded  by
drop     block  all    1100000  never    1m ago  ann
friends  allow  all    1        in 1h    1h ago  -
`
	if text.String() != wantText {
		t.Errorf("got\n%s, want\n%s", text.String(), wantText)
	}
	if err := f.JSON(&json); err != nil {
		t.Fatal(err)
	}
	wantJSON := `{
  "schema": 1,
  "feeds": [
    {
      "name": "drop",
      "list": "block",
      "scope": "all",
      "entries": 1100000,
      "expires": null,
      "loaded": "2026-03-01T11:59:00Z",
      "by": "ann"
    },
    {
      "name": "friends",
      "list": "allow",
      "scope": "all",
      "entries": 1,
      "expires": "2026-03-01T13:00:00Z",
      "loaded": "2026-03-01T11:00:00Z",
      "by": null
    }
  ]
}
`
	if json.String() != wantJSON {
		t.Errorf("got\n%s, want\n%s", json.String(), wantJSON)
	}
}
