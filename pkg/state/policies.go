// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// maxPolicy bounds what a policy can unpack to.
const maxPolicy = 256 << 20

// writePolicies saves the policies of an instance that are there for good. A file that is there already is not
// written again: its name is the sum of what it holds.
func (s *Store) writePolicies(i *datapath.Instance) ([]savedPolicy, error) {
	kept, err := i.Kept()
	if err != nil {
		return nil, err
	}
	var out []savedPolicy
	for _, a := range kept {
		if a.At.IsZero() {
			continue // it waits for its confirmation, and a reboot is none
		}
		packed, err := pack(a.Policy)
		if err != nil {
			return nil, err
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(packed))
		p := savedPolicy{part: part{"policy-" + sum[:32] + ".json.gz", sum}, At: a.At.UTC(), By: a.By}
		if s.verify(p.part) != nil {
			err := s.write(p.File, func(f *os.File) error {
				_, err := f.Write(packed)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// pack gives the same bytes for the same policy.
func pack(p *policy.Policy) ([]byte, error) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if err := errors.Join(json.NewEncoder(w).Encode(p), w.Close()); err != nil {
		return nil, fmt.Errorf("pack policy: %w", err)
	}
	return packed.Bytes(), nil
}

// readPolicies reads them back, in their order.
func (s *Store) readPolicies(h *head) ([]datapath.Applied, error) {
	var out []datapath.Applied
	for _, saved := range h.Policies {
		p, err := s.readPolicy(saved.File)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", s.path(saved.File), err)
		}
		out = append(out, datapath.Applied{At: saved.At, By: saved.By, Policy: p})
	}
	return out, nil
}

func (s *Store) readPolicy(name string) (*policy.Policy, error) {
	f, err := os.Open(s.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	p := &policy.Policy{}
	if err := json.NewDecoder(io.LimitReader(r, maxPolicy)).Decode(p); err != nil {
		return nil, err
	}
	return p, p.Validate()
}
