// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

// A format is raised when an older version could not read what a newer one saves. What holds no feed is saved as
// before there were any, so that one that knows none reads it.
const (
	formatPlain = 1
	formatFeeds = 2
)

// formatOf is that of a state that holds so many feeds.
func formatOf(feeds []datapath.Feed) int {
	if len(feeds) > 0 {
		return formatFeeds
	}
	return formatPlain
}

// errDamaged: a file is not what was written.
var errDamaged = errors.New("damaged")

// head is what was saved, without the large parts.
type head struct {
	Format int       `json:"format"`
	Saved  time.Time `json:"saved"`
	// Instance and Change: it holds this change of the instance, and all before. See datapath.Change.
	Instance   uint64           `json:"instance"`
	Change     uint64           `json:"change"`
	Interfaces []savedInterface `json:"interfaces"`
	// Policies: the one in force, then those that can be gone back to, the newest first.
	Policies []savedPolicy `json:"policies"`
	Lists    part          `json:"lists"`
	Journal  string        `json:"journal"`

	number uint64
}

// savedInterface is one to attach again.
type savedInterface struct {
	Name  string        `json:"name"`
	Netns string        `json:"netns,omitempty"`
	Mode  datapath.Mode `json:"mode"`
	// Instance is the one that it was attached in last.
	Instance uint64 `json:"instance"`
}

func (i savedInterface) place() datapath.Place {
	return datapath.Place{Interface: i.Name, Netns: i.Netns}
}

// savedPolicy is one that was in force.
type savedPolicy struct {
	part
	At time.Time `json:"at"`
	By string    `json:"by"`
}

// part is a file by its content.
type part struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

func headName(number uint64) string { return fmt.Sprintf("state-%d.json", number) }

// headNumbers are those of the states that are there, the newest first.
func (s *Store) headNumbers() ([]uint64, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read state: %w", err)
	}
	var numbers []uint64
	for _, e := range entries {
		text, found := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".json"), "state-")
		if n, err := strconv.ParseUint(text, 10, 64); found && err == nil && headName(n) == e.Name() {
			numbers = append(numbers, n)
		}
	}
	slices.SortFunc(numbers, func(a, b uint64) int { return cmp.Compare(b, a) })
	return numbers, nil
}

// head is the newest state that is whole, nil if nothing was saved. What is not whole is set aside. Of the files
// that a state names only those are read that are small.
func (s *Store) head() (*head, error) {
	return s.newest(func(*head) error { return nil })
}

// wholeHead is head with all its files held against their sums.
func (s *Store) wholeHead() (*head, error) {
	return s.newest(func(h *head) error {
		if h.Lists.File == "" {
			return nil
		}
		return s.verify(h.Lists)
	})
}

func (s *Store) newest(whole func(*head) error) (*head, error) {
	numbers, err := s.headNumbers()
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		h, err := s.readHead(n)
		if err == nil {
			err = whole(h)
		}
		if err == nil {
			return h, nil
		}
		if !errors.Is(err, errDamaged) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		s.setAside(headName(n), err)
	}
	return nil, nil
}

func (s *Store) readHead(number uint64) (*head, error) {
	content, err := os.ReadFile(s.path(headName(number)))
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	body, ok := cutSum(content)
	if !ok {
		return nil, fmt.Errorf("it is %w: its sum is another", errDamaged)
	}
	h := &head{number: number}
	if err := json.Unmarshal(body, h); err != nil {
		return nil, fmt.Errorf("it is %w: %w", errDamaged, err)
	}
	if h.Format < formatPlain || h.Format > formatFeeds {
		return nil, fmt.Errorf("read %s: it has format %d and this synward reads up to %d; use the version that saved it, or move it away",
			s.path(headName(number)), h.Format, formatFeeds)
	}
	for _, p := range h.Policies {
		if err := s.verify(p.part); err != nil {
			return nil, err
		}
	}
	return h, h.check()
}

// check: names of files are names and nothing else.
func (h *head) check() error {
	names := []string{h.Lists.File, h.Journal}
	for _, p := range h.Policies {
		names = append(names, p.File)
	}
	for _, name := range names {
		if strings.ContainsAny(name, "/\x00") || name == ".." {
			return fmt.Errorf("it is %w: %q is no name of a file", errDamaged, name)
		}
	}
	return nil
}

const sumMark = "sha256:"

// withSum puts the sum of a text behind it, as a line.
func withSum(body []byte) []byte {
	return fmt.Appendf(slices.Clip(body), "%s%x\n", sumMark, sha256.Sum256(body))
}

// cutSum takes it off again, if it is right.
func cutSum(content []byte) (body []byte, ok bool) {
	at := bytes.LastIndex(content, []byte(sumMark))
	if at < 0 {
		return nil, false
	}
	body = content[:at]
	return body, bytes.Equal(withSum(body), content)
}

// verify holds a file against its sum.
func (s *Store) verify(p part) error {
	f, err := os.Open(s.path(p.File))
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if fmt.Sprintf("%x", sum.Sum(nil)) != p.SHA256 {
		return fmt.Errorf("%s is %w: its sum is another", p.File, errDamaged)
	}
	return nil
}

// writeHead commits a state: it is the newest from here on. Then what no state names any more is removed.
func (s *Store) writeHead(h *head, before *head) error {
	h.Format, h.Saved = max(h.Format, formatPlain), time.Now().UTC()
	if before != nil {
		h.number = max(h.number, before.number+1)
	}
	h.number = max(h.number, 1)
	body, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	err = s.write(headName(h.number), func(f *os.File) error {
		_, err := f.Write(withSum(append(body, '\n')))
		return err
	})
	if err != nil {
		return err
	}
	return s.collect()
}

// collect removes all but the two newest states and what they name. What is foreign or set aside stays.
func (s *Store) collect() error {
	numbers, err := s.headNumbers()
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, n := range numbers[:min(2, len(numbers))] {
		h, err := s.readHead(n)
		if err != nil {
			return nil // the next reader sets it aside; until then nothing that it may name is removed
		}
		keep[headName(n)], keep[h.Lists.File], keep[h.Journal] = true, true, true
		for _, p := range h.Policies {
			keep[p.File] = true
		}
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	for _, e := range entries {
		if keep[e.Name()] || !isOurs(e.Name()) {
			continue
		}
		if err := os.Remove(s.path(e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old state: %w", err)
		}
	}
	return nil
}

func isOurs(name string) bool {
	if strings.HasSuffix(name, ".broken") {
		return false
	}
	return slices.ContainsFunc([]string{"state-", "policy-", "lists-", "journal-"}, func(p string) bool {
		return strings.HasPrefix(name, p)
	})
}
