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

// By is what sources are sorted by, the largest first.
type By string

// The orders of sources.
const (
	ByRefused  By = "refused"
	ByAdmitted By = "admitted"
	// ByEstablished puts those first that hold the most connections.
	ByEstablished By = "established"
)

// SortSources sorts in place; what is equal is sorted by the other count, then by address.
func SortSources(sources []datapath.Source, by By) {
	slices.SortFunc(sources, func(a, b datapath.Source) int {
		refused, admitted := cmp.Compare(b.Refused, a.Refused), cmp.Compare(b.Admitted, a.Admitted)
		if by == ByAdmitted {
			refused, admitted = admitted, refused
		}
		established := 0
		if by == ByEstablished {
			established = cmp.Compare(b.Established, a.Established)
		}
		return cmp.Or(established, refused, admitted, order(a.Prefix, b.Prefix), cmp.Compare(a.Service, b.Service))
	})
}

// Sources is a part of the ledger, in the order in which it is shown.
type Sources struct {
	Now     time.Time
	Sources []datapath.Source
}

// Text writes a table. Counts that are estimates have a ~ before them.
func (s Sources) Text(w io.Writer) error {
	head := []string{"source", "service", "refused", "admitted", "first seen", "last seen"}
	counted := slices.ContainsFunc(s.Sources, func(s datapath.Source) bool { return s.Counted })
	if counted {
		head = append(head, "established", "verified")
	}
	sends := slices.ContainsFunc(s.Sources, func(s datapath.Source) bool { return s.Sends })
	if sends {
		head = append(head, "bytes out")
	}
	t := newTable(head...)
	sampled := false
	for _, src := range s.Sources {
		mark := ""
		if src.Sampled {
			mark, sampled = "~", true
		}
		cells := []string{policy.FormatPrefix(src.Prefix), orDash(src.Service), mark + count(src.Refused), mark + count(src.Admitted),
			Ago(s.Now, src.FirstSeen), Ago(s.Now, src.LastSeen)}
		if counted {
			cells = append(cells, established(src), verified(s.Now, src))
		}
		if sends {
			cells = append(cells, bytesOut(src))
		}
		t.row(cells...)
	}
	if err := t.write(w); err != nil || !sampled {
		return err
	}
	_, err := fmt.Fprintln(w, "~ estimated from a sample: a flood was on")
	return err
}

// established is a dash where nobody counts.
func established(s datapath.Source) string {
	if !s.Counted {
		return "-"
	}
	return count(s.Established)
}

// bytesOut is a dash where nobody counts.
func bytesOut(s datapath.Source) string {
	if !s.Sends {
		return "-"
	}
	return size(s.BytesOut)
}

// verified is when a handshake was last completed.
func verified(now time.Time, s datapath.Source) string {
	if s.Verified.IsZero() {
		return "-"
	}
	return Ago(now, s.Verified)
}

// Plain writes one source a line.
func (s Sources) Plain(w io.Writer) error {
	for _, src := range s.Sources {
		if _, err := fmt.Fprintln(w, policy.FormatPrefix(src.Prefix)); err != nil {
			return err
		}
	}
	return nil
}

type sourceJSON struct {
	Source string `json:"source"`
	// Service is null for what ended before a service was found, as by a block.
	Service  optional `json:"service"`
	Admitted uint64   `json:"admitted"`
	Refused  uint64   `json:"refused"`
	// Established and Verified are null where no limit has connections counted.
	Established *uint64 `json:"established"`
	Verified    *bool   `json:"verified"`
	// BytesOut is what was sent and has not drained yet; null where no limit has it counted.
	BytesOut  *uint64   `json:"bytes_out"`
	FirstSeen timestamp `json:"first_seen"`
	LastSeen  timestamp `json:"last_seen"`
	Sampled   bool      `json:"sampled"`
}

// JSON writes the document of `sources`.
func (s Sources) JSON(w io.Writer) error {
	return writeJSON(w, struct {
		Schema  int          `json:"schema"`
		Sources []sourceJSON `json:"sources"`
	}{schema, s.lines()})
}

func (s Sources) lines() []sourceJSON {
	sources := make([]sourceJSON, 0, len(s.Sources))
	for _, src := range s.Sources {
		line := sourceJSON{
			Source: policy.FormatPrefix(src.Prefix), Service: optional(src.Service), Admitted: src.Admitted, Refused: src.Refused,
			FirstSeen: timestamp(src.FirstSeen), LastSeen: timestamp(src.LastSeen), Sampled: src.Sampled,
		}
		if src.Counted {
			completed := !src.Verified.IsZero()
			line.Established, line.Verified = &src.Established, &completed
		}
		if src.Sends {
			line.BytesOut = &src.BytesOut
		}
		sources = append(sources, line)
	}
	return sources
}
