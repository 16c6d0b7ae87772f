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
	"os"
	"strconv"
	"strings"

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
		feeds, err := i.Feeds()
		if err != nil {
			return err
		}
		for _, one := range feeds {
			if _, err := w.Write(append(appendFeed(line[:0], one), '\n')); err != nil {
				return err
			}
		}
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
//	f feed               one that is to be known, in place of one of that name
//	+ entry              one that was put there
//	- list prefix [feed] one that was taken off; of an operator where there is no feed
//	x name               a feed that is gone, with all its entries
//	= change CRC-32C     the end of the change, with the sum of its lines
//
// A change without its last line did not happen.
func (s *Store) appendJournal(h *head, change uint64, lists []datapath.ListChange) error {
	var b []byte
	for _, c := range lists {
		if c.Feed != nil {
			b = append(appendFeed(append(b, 'f', '\t'), *c.Feed), '\n')
		}
		for _, e := range c.Added {
			e.Prefix = e.Prefix.Masked()
			b = append(appendEntry(append(b, '+', '\t'), c.List, e), '\n')
		}
		name, _ := datapath.FeedOfOrigin(c.Origin)
		for _, p := range c.Removed {
			b = fmt.Appendf(b, "-\t%s\t%s", c.List, p.Masked())
			if name != "" {
				b = fmt.Appendf(b, "\t%s", name)
			}
			b = append(b, '\n')
		}
		if c.FeedGone != "" {
			b = fmt.Appendf(b, "x\t%s\n", c.FeedGone)
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
