// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxAuditLine is longer than any line that is written, with every byte of it escaped.
const maxAuditLine = 1 << 16

// maxSkippedNames is how many lines that could not be read are named; the others are counted.
const maxSkippedNames = 5

// AuditSkipped is what could not be read of a log: lines that were cut short or that this version does not know.
type AuditSkipped struct {
	// Names says what and why, of the first few.
	Names []string
	// Lines is how many there were in all.
	Lines int
}

func (s *AuditSkipped) add(format string, args ...any) {
	if s.Lines++; len(s.Names) < maxSkippedNames {
		s.Names = append(s.Names, fmt.Sprintf(format, args...))
	}
}

// ReadAudit reads the log in dir with what logrotate(8) made of it (audit.jsonl.N, also .gz), oldest first: what
// changed at or after since, and of that the last count if count is above 0. No log is no error. The error
// names the first file that could not be read at all; the entries of the others are returned with it.
func ReadAudit(dir string, since time.Time, count int) ([]AuditEntry, AuditSkipped, error) {
	var skipped AuditSkipped
	var entries []AuditEntry
	files, failed := auditFiles(dir)
	for _, path := range files {
		err := readAuditFile(path, &skipped, func(e AuditEntry) {
			if !e.Time.Before(since) {
				entries = append(entries, e)
			}
		})
		if err != nil && failed == nil {
			failed = fmt.Errorf("read audit log: %w", err)
		}
	}
	slices.SortStableFunc(entries, func(a, b AuditEntry) int { return a.Time.Compare(b.Time) })
	if count > 0 && len(entries) > count {
		entries = entries[len(entries)-count:]
	}
	return entries, skipped, failed
}

// auditFiles lists the log and what it was before, oldest first.
func auditFiles(dir string) ([]string, error) {
	all, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list audit logs: %w", err)
	}
	ages := map[string]int{}
	var names []string
	for _, entry := range all {
		if age, ok := auditAge(entry.Name()); ok {
			ages[entry.Name()] = age
			names = append(names, entry.Name())
		}
	}
	slices.SortFunc(names, func(a, b string) int { return ages[b] - ages[a] })
	for i := range names {
		names[i] = filepath.Join(dir, names[i])
	}
	return names, nil
}

// auditAge is how often a log was rotated; ok is false for what is no log.
func auditAge(name string) (age int, ok bool) {
	if name == auditFile {
		return 0, true
	}
	number, ok := strings.CutPrefix(strings.TrimSuffix(name, ".gz"), auditFile+".")
	if !ok {
		return 0, false
	}
	age, err := strconv.Atoi(number)
	return age, err == nil && age > 0
}

// readAuditFile hands out the entries of one file.
func readAuditFile(path string, skipped *AuditSkipped, each func(AuditEntry)) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // rotated a moment ago
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var text io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if text, err = gzip.NewReader(f); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	lines := bufio.NewReaderSize(text, maxAuditLine)
	for number := 1; ; number++ {
		line, err := lines.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
		if long {
			skipped.add("%s:%d: longer than any line of synward", path, number)
		} else if len(bytes.TrimSpace(line)) > 0 {
			if e, why := parseAuditLine(line); why == "" {
				each(e)
			} else {
				skipped.add("%s:%d: %s", path, number, why)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
}

// parseAuditLine reads one line; why says what is wrong with it. A newer version may add fields.
func parseAuditLine(line []byte) (e AuditEntry, why string) {
	err := json.Unmarshal(line, &e)
	switch {
	case err != nil && line[len(line)-1] != '\n':
		return e, "the line was cut short"
	case err != nil:
		return e, "no line of synward, or cut short"
	case e.Schema != auditSchema:
		return e, fmt.Sprintf("its schema is %d, and this version reads %d", e.Schema, auditSchema)
	case e.Time.IsZero() || len(e.Command) == 0 && e.PinDir == "":
		return e, "no line of synward: it has no time or no command"
	}
	return e, ""
}
