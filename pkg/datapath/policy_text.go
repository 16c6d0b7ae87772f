// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// keptPolicies is how many policies before the one in force are kept for `rollback`.
const keptPolicies = 5

// maxPolicyText bounds what a damaged text can unpack to.
const maxPolicyText = 256 << 20

// Applied is one policy that was applied, in force or kept for a rollback.
type Applied struct {
	Generation uint16
	// At is zero while it waits for its confirmation.
	At     time.Time
	By     string
	Policy *policy.Policy
}

// putText keeps the text of a generation. It is none to go back to before markApplied.
func (i *Instance) putText(generation uint16, p *policy.Policy, by string) error {
	if err := i.dropTexts(func(g uint16) bool { return g != generation }); err != nil {
		return err
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	// JSON and not YAML: with a list of a million prefixes the reader of policy files takes a gigabyte.
	if err := json.NewEncoder(w).Encode(p); err != nil {
		return fmt.Errorf("pack policy: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("pack policy: %w", err)
	}
	return i.putPacked(generation, packed.Bytes(), by, 0)
}

// putPacked keeps a packed text. applied is in UNIX seconds, 0 for not yet.
func (i *Instance) putPacked(generation uint16, packed []byte, by string, applied uint64) error {
	size := int(limiterPolicyTextPOLICY_TEXT_BYTES)
	pieces := slices.Collect(slices.Chunk(packed, size))
	for n, text := range pieces {
		piece := limiterPolicyPiece{Bytes: uint32(len(text)), Pieces: uint32(len(pieces)), Applied: applied}
		copy(piece.By[:len(piece.By)-1], by)
		copy(piece.Text[:], text)
		key := limiterPolicyTextKey{Generation: uint32(generation), Piece: uint32(n)}
		err := i.maps.PolicyTexts.Put(key, piece)
		for listIsFull(err) && i.dropOldestText() {
			err = i.maps.PolicyTexts.Put(key, piece)
		}
		if listIsFull(err) {
			return fail(ErrFull, "the policy is too large to be kept (%d MB packed)", len(packed)>>20)
		}
		if err != nil {
			return fmt.Errorf("keep policy: %w", err)
		}
	}
	return nil
}

// dropOldestText makes room by the oldest policy that could be gone back to and is not in force.
func (i *Instance) dropOldestText() bool {
	all, err := i.generations()
	if err != nil {
		return false
	}
	l := i.live()
	all = slices.DeleteFunc(all, func(g uint16) bool { return g == l.generation || l.deadline != 0 && g == l.fallback })
	if len(all) == 0 {
		return false
	}
	oldest := all[len(all)-1]
	return i.dropTexts(func(g uint16) bool { return g != oldest }) == nil
}

// markApplied says that a generation is in force for good, once.
func (i *Instance) markApplied(generation uint16) error {
	key := limiterPolicyTextKey{Generation: uint32(generation)}
	var piece limiterPolicyPiece
	if err := i.maps.PolicyTexts.Lookup(key, &piece); err != nil || piece.Applied != 0 {
		return ignoreMissing(err)
	}
	piece.Applied = uint64(time.Now().Unix())
	if err := i.maps.PolicyTexts.Put(key, piece); err != nil {
		return fmt.Errorf("keep policy: %w", err)
	}
	return nil
}

func ignoreMissing(err error) error {
	if isMissing(err) {
		return nil
	}
	return err
}

// text reads a generation back. ok is false where it is not kept.
func (i *Instance) text(generation uint16) (out Applied, ok bool, err error) {
	var packed bytes.Buffer
	for n, pieces := uint32(0), uint32(1); n < pieces; n++ {
		var piece limiterPolicyPiece
		err := i.maps.PolicyTexts.Lookup(limiterPolicyTextKey{Generation: uint32(generation), Piece: n}, &piece)
		if isMissing(err) {
			return Applied{}, false, nil
		}
		if err != nil {
			return Applied{}, false, fmt.Errorf("read policy: %w", err)
		}
		if piece.Bytes > uint32(len(piece.Text)) || piece.Pieces > i.maps.PolicyTexts.MaxEntries() {
			return Applied{}, false, errDamaged("policy text")
		}
		pieces = piece.Pieces
		packed.Write(piece.Text[:piece.Bytes])
		if n == 0 {
			out = Applied{Generation: generation, By: text(piece.By[:])}
			if piece.Applied != 0 {
				out.At = time.Unix(int64(piece.Applied), 0)
			}
		}
	}
	out.Policy, err = unpackPolicy(&packed)
	if err != nil {
		return Applied{}, false, errors.Join(errDamaged("policy text"), err)
	}
	return out, true, nil
}

func unpackPolicy(packed io.Reader) (*policy.Policy, error) {
	r, err := gzip.NewReader(packed)
	if err != nil {
		return nil, err
	}
	p := &policy.Policy{}
	d := json.NewDecoder(io.LimitReader(r, maxPolicyText))
	d.DisallowUnknownFields() // what another version could say must not go unnoticed
	if err := d.Decode(p); err != nil {
		return nil, err
	}
	return p, p.Validate()
}

// generations are the policies that are kept to go back to, the newest first: by number, for the clock may
// have been set back. The numbers turn around.
func (i *Instance) generations() ([]uint16, error) {
	var all []uint16
	var key limiterPolicyTextKey
	var piece limiterPolicyPiece
	iter := i.maps.PolicyTexts.Iterate()
	for iter.Next(&key, &piece) {
		if key.Piece == 0 && piece.Applied != 0 {
			all = append(all, uint16(key.Generation))
		}
	}
	if err := iter.Err(); err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	last := uint16(i.control.Last)
	slices.SortFunc(all, func(a, b uint16) int { return int(last-a) - int(last-b) })
	return all, nil
}

// dropTexts forgets all generations but those to keep.
func (i *Instance) dropTexts(keep func(generation uint16) bool) error {
	var keys []limiterPolicyTextKey
	var key limiterPolicyTextKey
	var piece limiterPolicyPiece
	iter := i.maps.PolicyTexts.Iterate()
	for iter.Next(&key, &piece) {
		if !keep(uint16(key.Generation)) {
			keys = append(keys, key)
		}
	}
	if err := iter.Err(); err != nil {
		return fmt.Errorf("read policies: %w", err)
	}
	for _, key := range keys {
		if err := i.maps.PolicyTexts.Delete(key); err != nil && !isMissing(err) {
			return fmt.Errorf("forget policy: %w", err)
		}
	}
	return nil
}

func errDamaged(what string) error {
	return fmt.Errorf("the %s makes no sense: the pins are damaged; detach --all and attach again", what)
}
