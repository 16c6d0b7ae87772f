// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

// changes are what a journal makes of the lists that were written before it.
type changes struct {
	// entries is what became of each that is named; nil for one that was taken off.
	entries map[listed]*datapath.Entry
	feeds   map[string]datapath.Feed
	// gone are feeds whose entries of before count no more.
	gone map[string]bool
}

// replay reads the journal to its last whole change.
func (s *Store) replay(h *head) (*changes, error) {
	out := &changes{map[listed]*datapath.Entry{}, map[string]datapath.Feed{}, map[string]bool{}}
	f, err := os.Open(s.path(h.Journal))
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	defer f.Close()
	var step []string
	var sum uint32
	lines := bufio.NewReaderSize(f, maxLine)
	for {
		bytes, err := lines.ReadSlice('\n')
		if err == io.EOF && len(bytes) == 0 && len(step) == 0 {
			return out, nil
		}
		line := strings.TrimSuffix(string(bytes), "\n")
		_, crc, end := parseEnd(line)
		if err != nil || end && crc != sum {
			s.warn(fmt.Sprintf("%s ends in the middle of a change: that one is left out", s.path(h.Journal)))
			return out, nil
		}
		if !end {
			sum = crc32.Update(sum, crcTable, bytes)
			step = append(step, line)
			continue
		}
		for _, line := range step {
			if err := out.take(line); err != nil {
				return nil, err
			}
		}
		step, sum = step[:0], 0
	}
}

func (c *changes) take(line string) error {
	kind, rest, _ := strings.Cut(line, "\t")
	switch kind {
	case "+":
		l, e, err := parseEntry(rest)
		if err != nil {
			return err
		}
		c.entries[listedBy(l, e.Prefix, e.Origin)] = &e
	case "-":
		list, rest, _ := strings.Cut(rest, "\t")
		prefix, feed, _ := strings.Cut(rest, "\t")
		l, p, err := parseListed(list, prefix)
		if err != nil {
			return err
		}
		c.entries[listed{l, p, feed}] = nil
	case "f":
		f, err := parseFeed(rest)
		if err != nil {
			return err
		}
		c.feeds[f.Name] = f
	case "x":
		delete(c.feeds, rest)
		c.gone[rest] = true
		maps.DeleteFunc(c.entries, func(key listed, _ *datapath.Entry) bool { return key.feed == rest })
	default:
		return fmt.Errorf("%w journal: line %q", errDamaged, line)
	}
	return nil
}

// counts: a ban that has ended says how long the next one is.
func counts(e datapath.Entry, now time.Time) bool {
	return e.Ban != nil && e.Ban.Fades > 0 && uint64(now.Sub(e.Expires)/e.Ban.Fades) < e.Ban.Repeats
}

// visitor is told of what is saved of the lists: the feeds first.
type visitor struct {
	feed  func(datapath.Feed) error
	entry func(datapath.List, datapath.Entry) error
}

// eachEntry visits what is saved of the lists and has not ended.
func (s *Store) eachEntry(h *head, v visitor) error {
	if h.Lists.File == "" {
		return nil
	}
	c, err := s.replay(h)
	if err != nil {
		return err
	}
	f, err := os.Open(s.path(h.Lists.File))
	if err != nil {
		return fmt.Errorf("read lists: %w", err)
	}
	defer f.Close()
	for _, one := range c.feeds {
		if err := v.feed(one); err != nil {
			return err
		}
	}
	now := time.Now()
	show := func(l datapath.List, e datapath.Entry) error {
		if !e.Expires.IsZero() && !e.Expires.After(now) && !counts(e, now) {
			return nil
		}
		return v.entry(l, e)
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if err := c.line(lines.Text(), v.feed, show); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read lists: %w", err)
	}
	for key, e := range c.entries {
		if e == nil {
			continue
		}
		if err := show(key.list, *e); err != nil {
			return err
		}
	}
	return nil
}

// line visits what stands in a line of the lists, unless it was changed since.
func (c *changes) line(line string, known func(datapath.Feed) error, show func(datapath.List, datapath.Entry) error) error {
	if strings.HasPrefix(line, feedLine+"\t") {
		f, err := parseFeed(line)
		if _, newer := c.feeds[f.Name]; err != nil || newer || c.gone[f.Name] {
			return err
		}
		return known(f)
	}
	l, e, err := parseEntry(line)
	if err != nil {
		return err
	}
	if e.Ban != nil {
		return show(l, e) // the journal never tells of bans
	}
	key := listedBy(l, e.Prefix, e.Origin)
	if _, newer := c.entries[key]; newer || c.gone[key.feed] {
		return nil
	}
	return show(l, e)
}
