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

// Source is all that is known of one source: its lines of the ledger, what each limit counts of it, and its
// connections that are counted.
type Source struct {
	Sources
	Levels []datapath.LimitLevel
	Conns  []datapath.OpenConn
	// Top is how many connections are shown; 0 is all.
	Top uint
}

// Text writes a table for each of them that is not empty.
func (s Source) Text(w io.Writer) error {
	first := true
	for _, part := range []struct {
		rows  int
		write func(io.Writer) error
	}{{len(s.Sources.Sources), s.Sources.Text}, {len(s.Levels), s.levels}, {len(s.Conns), s.conns}} {
		if part.rows == 0 {
			continue
		}
		if !first {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		first = false
		if err := part.write(w); err != nil {
			return err
		}
	}
	return nil
}

func (s Source) levels(w io.Writer) error {
	t := newTable("limit", "counted", "of", "clear", "")
	for _, l := range s.Levels {
		amount := count
		if l.Limit.Kind == policy.KindBytesIn || l.Limit.Kind == policy.KindBytesOut {
			amount = size
		}
		note := l.Limit.Words()
		if l.Borrowed {
			note += "; what is counted was another source's: the table is full"
		}
		t.row(l.Name, amount(l.Counted), amount(l.Most), inTime(s.Now, l.Clear), note)
	}
	return t.write(w)
}

// inTime is how long it is until t; a dash for no time.
func inTime(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return "in " + Duration(max(t.Sub(now), 0))
}

func (s Source) conns(w io.Writer) error {
	shown := s.Conns
	if s.Top > 0 && uint(len(shown)) > s.Top {
		shown = shown[:s.Top]
	}
	t := newTable("connection", "to", "service", "counted since")
	for _, c := range shown {
		t.row(c.Remote.String(), c.Local.String(), orDash(c.Service), Ago(s.Now, c.Since))
	}
	if err := t.write(w); err != nil || len(shown) == len(s.Conns) {
		return err
	}
	_, err := fmt.Fprintf(w, "%d of %d connections; --top 0 shows all\n", len(shown), len(s.Conns))
	return err
}

type levelJSON struct {
	Service optional `json:"service"`
	Limit   string   `json:"limit"`
	Counted uint64   `json:"counted"`
	Most    uint64   `json:"most"`
	// Clear is null where nothing has to drain.
	Clear    timestamp `json:"clear"`
	Borrowed bool      `json:"borrowed"`
}

type connJSON struct {
	Remote  netip.AddrPort `json:"remote"`
	Local   netip.AddrPort `json:"local"`
	Service optional       `json:"service"`
	Since   timestamp      `json:"since"`
}

// JSON writes the document of `sources`, with what its limits count and all connections.
func (s Source) JSON(w io.Writer) error {
	levels, conns := make([]levelJSON, 0, len(s.Levels)), make([]connJSON, 0, len(s.Conns))
	for _, l := range s.Levels {
		levels = append(levels, levelJSON{optional(l.Service), l.Name, l.Counted, l.Most, timestamp(l.Clear), l.Borrowed})
	}
	for _, c := range s.Conns {
		conns = append(conns, connJSON{c.Remote, c.Local, optional(c.Service), timestamp(c.Since)})
	}
	return writeJSON(w, struct {
		Schema  int          `json:"schema"`
		Sources []sourceJSON `json:"sources"`
		Levels  []levelJSON  `json:"levels"`
		Conns   []connJSON   `json:"connections"`
	}{schema, s.lines(), levels, conns})
}
