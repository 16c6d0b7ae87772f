// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/feed"
	"github.com/synward/synward/pkg/policy"
)

// An entry is one line of fields with tabs between them:
//
//	list prefix scope expires created hits origin by reason [service only strikes repeats fades]
//
// The last five are of bans alone; only is 0 or 1, fades in nanoseconds.
//
// expires is in UNIX nanoseconds, created in seconds, as the kernel's notes have it; both are 0 where there is none. by,
// reason and service are quoted as in Go.
const (
	entryFields = 9
	banFields   = 5
)

func appendEntry(b []byte, l datapath.List, e datapath.Entry) []byte {
	b = append(b, l.String()...)
	b = append(b, '\t')
	b = e.Prefix.AppendTo(b)
	b = append(b, '\t')
	b = append(b, e.Scope...)
	b = append(b, '\t')
	b = strconv.AppendInt(b, inUnix(e.Expires, time.Time.UnixNano), 10)
	b = append(b, '\t')
	b = strconv.AppendInt(b, inUnix(e.Created, time.Time.Unix), 10)
	b = append(b, '\t')
	b = strconv.AppendUint(b, e.Hits, 10)
	b = append(b, '\t')
	b = append(b, e.Origin...)
	b = append(b, '\t')
	b = strconv.AppendQuote(b, e.By)
	b = append(b, '\t')
	b = strconv.AppendQuote(b, e.Reason)
	if e.Ban == nil {
		return b
	}
	only := 0
	if e.Ban.Only {
		only = 1
	}
	return fmt.Appendf(b, "\t%q\t%d\t%d\t%d\t%d", e.Ban.Service, only, e.Ban.Strikes, e.Ban.Repeats, e.Ban.Fades)
}

func parseBan(fields []string) (*datapath.Ban, error) {
	var b datapath.Ban
	var failed [5]error
	var fades int64
	b.Service, failed[0] = strconv.Unquote(fields[0])
	b.Only, failed[1] = strconv.ParseBool(fields[1])
	b.Strikes, failed[2] = strconv.ParseUint(fields[2], 10, 32)
	b.Repeats, failed[3] = strconv.ParseUint(fields[3], 10, 32)
	fades, failed[4] = strconv.ParseInt(fields[4], 10, 64)
	b.Fades = time.Duration(fades)
	for _, err := range failed {
		if err != nil {
			return nil, fmt.Errorf("%w entry: %w", errDamaged, err)
		}
	}
	return &b, nil
}

func inUnix(t time.Time, in func(time.Time) int64) int64 {
	if t.IsZero() {
		return 0
	}
	return in(t)
}

func timeOf(seconds, ns int64) time.Time {
	if seconds == 0 && ns == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, ns)
}

func parseEntry(line string) (l datapath.List, e datapath.Entry, err error) {
	fields := strings.Split(line, "\t")
	if len(fields) != entryFields && len(fields) != entryFields+banFields {
		return l, e, fmt.Errorf("%w entry: %d fields", errDamaged, len(fields))
	}
	if l, e.Prefix, err = parseListed(fields[0], fields[1]); err != nil {
		return l, e, err
	}
	e.Scope, e.Origin = datapath.Scope(fields[2]), fields[6]
	var expires, created int64
	var failed [5]error
	expires, failed[0] = strconv.ParseInt(fields[3], 10, 64)
	created, failed[1] = strconv.ParseInt(fields[4], 10, 64)
	e.Hits, failed[2] = strconv.ParseUint(fields[5], 10, 64)
	e.By, failed[3] = strconv.Unquote(fields[7])
	e.Reason, failed[4] = strconv.Unquote(fields[8])
	for _, err := range failed {
		if err != nil {
			return l, e, fmt.Errorf("%w entry: %w", errDamaged, err)
		}
	}
	if err := checkScope(e.Scope); err != nil {
		return l, e, err
	}
	e.Expires, e.Created = timeOf(0, expires), timeOf(created, 0)
	if len(fields) > entryFields {
		if e.Ban, err = parseBan(fields[entryFields:]); err != nil {
			return l, e, err
		}
	}
	return l, e, nil
}

func checkScope(s datapath.Scope) error {
	if s != datapath.ScopeAll && s != datapath.ScopeNew {
		return fmt.Errorf("%w entry: scope %q", errDamaged, s)
	}
	return nil
}

func parseList(name string) (datapath.List, error) {
	for _, l := range []datapath.List{datapath.Allow, datapath.Block} {
		if l.String() == name {
			return l, nil
		}
	}
	return 0, fmt.Errorf("%w entry: list %q", errDamaged, name)
}

func parseListed(list, prefix string) (l datapath.List, p netip.Prefix, err error) {
	if l, err = parseList(list); err != nil {
		return l, p, err
	}
	if p, err = policy.ParsePrefix(prefix); err != nil {
		return l, p, fmt.Errorf("%w entry: %w", errDamaged, err)
	}
	return l, p, nil
}

// listed is what an entry is known by.
type listed struct {
	list   datapath.List
	prefix netip.Prefix
	// feed is empty for what an operator typed.
	feed string
}

func listedBy(l datapath.List, p netip.Prefix, origin string) listed {
	name, _ := datapath.FeedOfOrigin(origin)
	return listed{l, p, name}
}

// A feed is one line, in front of its entries:
//
//	feed list name scope expires loaded entries by
//
// in the form of an entry's fields.
const (
	feedLine   = "feed"
	feedFields = 8
)

func appendFeed(b []byte, f datapath.Feed) []byte {
	return fmt.Appendf(b, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%q", feedLine, f.List, f.Name, f.Scope,
		inUnix(f.Expires, time.Time.UnixNano), inUnix(f.Loaded, time.Time.Unix), f.Entries, f.By)
}

func parseFeed(line string) (f datapath.Feed, err error) {
	fields := strings.Split(line, "\t")
	if len(fields) != feedFields {
		return f, fmt.Errorf("%w feed: %d fields", errDamaged, len(fields))
	}
	if f.List, err = parseList(fields[1]); err != nil {
		return f, err
	}
	f.Name, f.Scope = fields[2], datapath.Scope(fields[3])
	expires, err := strconv.ParseInt(fields[4], 10, 64)
	loaded, loadedErr := strconv.ParseInt(fields[5], 10, 64)
	entries, entriesErr := strconv.ParseUint(fields[6], 10, 32)
	by, byErr := strconv.Unquote(fields[7])
	if err := errors.Join(err, loadedErr, entriesErr, byErr, feed.CheckName(f.Name)); err != nil {
		return f, fmt.Errorf("%w feed: %w", errDamaged, err)
	}
	f.Expires, f.Loaded, f.Entries, f.By = timeOf(0, expires), timeOf(loaded, 0), int(entries), by
	return f, checkScope(f.Scope)
}
