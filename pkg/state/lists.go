// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

// The journal is folded into the lists when it is larger than this and than half of them.
const minFold = 4 << 20

// maxLine bounds a line of the lists or of the journal.
const maxLine = 4096

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// writeLists writes the lists of an instance as a new file.
func (s *Store) writeLists(i *datapath.Instance, name string) (p part, err error) {
	sum := sha256.New()
	err = s.write(name, func(f *os.File) error {
		w := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)
		var line []byte
		for _, l := range []datapath.List{datapath.Allow, datapath.Block} {
			err := i.KeptEntries(l, func(e datapath.Entry) error {
				line = append(appendEntry(line[:0], l, e), '\n')
				_, err := w.Write(line)
				return err
			})
			if err != nil {
				return err
			}
		}
		return w.Flush()
	})
	return part{name, fmt.Sprintf("%x", sum.Sum(nil))}, err
}

// appendJournal adds a change of the lists behind what the journal holds, as a whole or not at all:
//
//   - entry           one that was put there
//   - list prefix     one that was taken off
//     = change CRC-32C  the end of the change, with the sum of its lines
//
// A change without its last line did not happen.
func (s *Store) appendJournal(h *head, change uint64, lists []datapath.ListChange) error {
	var b []byte
	for _, c := range lists {
		for _, e := range c.Added {
			e.Prefix = e.Prefix.Masked()
			b = append(appendEntry(append(b, '+', '\t'), c.List, e), '\n')
		}
		for _, p := range c.Removed {
			b = fmt.Appendf(b, "-\t%s\t%s\n", c.List, p.Masked())
		}
	}
	b = fmt.Appendf(b, "=\t%d\t%08x\n", change, crc32.Checksum(b, crcTable))
	f, err := os.OpenFile(s.path(h.Journal), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	before, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Write(b)
	}
	if err = errors.Join(err, f.Sync()); err != nil {
		// A full disk may have taken the first half.
		return errors.Join(fmt.Errorf("write journal: %w", err), f.Truncate(before), f.Close())
	}
	return f.Close()
}

// journalEnd is how long the journal is, and the last change in it: 0 for an empty one. whole is false where it
// does not end in a whole change.
func (s *Store) journalEnd(h *head) (size int64, change uint64, whole bool) {
	f, err := os.Open(s.path(h.Journal))
	if err != nil {
		return 0, 0, false
	}
	defer f.Close()
	size, err = f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return size, 0, err == nil
	}
	tail := make([]byte, min(size, 64))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return size, 0, false
	}
	line, ended := bytes.CutSuffix(tail, []byte{'\n'})
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	change, _, ok := parseEnd(string(line))
	return size, change, ok && ended
}

func parseEnd(line string) (change uint64, sum uint32, ok bool) {
	fields := strings.Split(line, "\t")
	if len(fields) != 3 || fields[0] != "=" {
		return 0, 0, false
	}
	change, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0, 0, false
	}
	crc, err := strconv.ParseUint(fields[2], 16, 32)
	return change, uint32(crc), err == nil
}

// replay reads the journal to its last whole change: what became of each entry that it names, nil for one that
// was taken off.
func (s *Store) replay(h *head) (map[listed]*datapath.Entry, error) {
	out := map[listed]*datapath.Entry{}
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
		if err := take(out, step); err != nil {
			return nil, err
		}
		step, sum = step[:0], 0
	}
}

func take(out map[listed]*datapath.Entry, step []string) error {
	for _, line := range step {
		kind, rest, _ := strings.Cut(line, "\t")
		switch kind {
		case "+":
			l, e, err := parseEntry(rest)
			if err != nil {
				return err
			}
			out[listed{l, e.Prefix}] = &e
		case "-":
			list, prefix, _ := strings.Cut(rest, "\t")
			l, p, err := parseListed(list, prefix)
			if err != nil {
				return err
			}
			out[listed{l, p}] = nil
		default:
			return fmt.Errorf("%w journal: line %q", errDamaged, line)
		}
	}
	return nil
}

// counts: a ban that has ended says how long the next one is.
func counts(e datapath.Entry, now time.Time) bool {
	return e.Ban != nil && e.Ban.Fades > 0 && uint64(now.Sub(e.Expires)/e.Ban.Fades) < e.Ban.Repeats
}

// eachEntry visits what is saved of the lists and has not ended.
func (s *Store) eachEntry(h *head, visit func(datapath.List, datapath.Entry) error) error {
	if h.Lists.File == "" {
		return nil
	}
	changed, err := s.replay(h)
	if err != nil {
		return err
	}
	now := time.Now()
	show := func(l datapath.List, e datapath.Entry) error {
		if !e.Expires.IsZero() && !e.Expires.After(now) && !counts(e, now) {
			return nil
		}
		return visit(l, e)
	}
	f, err := os.Open(s.path(h.Lists.File))
	if err != nil {
		return fmt.Errorf("read lists: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		l, e, err := parseEntry(lines.Text())
		if err != nil {
			return err
		}
		if _, newer := changed[listed{l, e.Prefix}]; newer && e.Ban == nil {
			continue // the journal never tells of bans
		}
		if err := show(l, e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read lists: %w", err)
	}
	for key, e := range changed {
		if e == nil {
			continue
		}
		if err := show(key.list, *e); err != nil {
			return err
		}
	}
	return nil
}
