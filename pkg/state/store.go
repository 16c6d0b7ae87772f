// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

// DefaultDir is where the state of the default instance is saved.
const DefaultDir = "/var/lib/synward"

// DirOf is where the state of the instance with this pin directory is saved: DefaultDir, or a directory of its
// own beneath it.
func DirOf(pinDir string) string {
	return filepath.Join(DefaultDir, datapath.InstanceName(pinDir))
}

// Store is a directory that one instance is saved in. Whoever changes it holds the instance's lock.
//
//	state-N.json     what was saved: interfaces, and by name and SHA-256 the files that hold the rest
//	policy-SHA.json  one policy, packed
//	lists-N          the lists
//	journal-N        what was changed of them since
//
// The two newest states are there, with all that they name. Each ends in the SHA-256 of what stands before.
type Store struct {
	dir  string
	warn func(string)
}

// Open gives the store in a directory, which need not be there yet. warn is told, a line each, of what is set
// aside because it is damaged or foreign, and of what cannot be saved.
func Open(dir string, warn func(string)) *Store { return &Store{dir, warn} }

// Summary says what is saved.
type Summary struct {
	Saved time.Time
	// Interfaces come back by restore.
	Interfaces []datapath.Place
	// Policies is how many are kept, the one in force among them.
	Policies int
	// Allow and Block are entries that somebody made; those of the policy come with it.
	Allow, Block int
}

// Last is what was saved last. fs.ErrNotExist: nothing, or all of it was detached.
func (s *Store) Last() (Summary, error) {
	h, err := s.head()
	if err != nil {
		return Summary{}, err
	}
	if h == nil || len(h.Interfaces) == 0 {
		return Summary{}, fmt.Errorf("read state in %s: %w", s.dir, fs.ErrNotExist)
	}
	out := Summary{Saved: h.Saved, Policies: len(h.Policies)}
	for _, one := range h.Interfaces {
		out.Interfaces = append(out.Interfaces, one.place())
	}
	noFeed := func(datapath.Feed) error { return nil }
	err = s.eachEntry(h, visitor{noFeed, func(l datapath.List, _ datapath.Entry) error {
		if l == datapath.Allow {
			out.Allow++
		} else {
			out.Block++
		}
		return nil
	}})
	return out, err
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// write makes a file whole or not at all, and lasting before it returns.
func (s *Store) write(name string, fill func(*os.File) error) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	temporary := s.path(name + ".new")
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := errors.Join(fill(f), f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write state: %w", err), os.Remove(temporary))
	}
	if err := os.Rename(temporary, s.path(name)); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return s.syncDir()
}

// syncDir makes names that were made or moved lasting.
func (s *Store) syncDir() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// setAside keeps a damaged file for whoever wants to look, out of the way of the rest.
func (s *Store) setAside(name string, why error) {
	aside := name + ".broken"
	if err := os.Rename(s.path(name), s.path(aside)); err != nil {
		s.warn(fmt.Sprintf("%s is not usable: %v", s.path(name), why))
		return
	}
	s.warn(fmt.Sprintf("%s is not usable: %v; it is now %s", s.path(name), why, aside))
}
