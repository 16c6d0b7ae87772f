// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// copyPlan turns a value of one layout into one of another: each field goes to the one of its name. A new
// field is zero. What has no place in the new value must be zero, or the value cannot be carried over.
type copyPlan struct {
	size  int // of the new value
	from  int // of the old one
	steps []copyStep
	lost  []field
	// lenient leaves behind what has no place.
	lenient bool
}

// copyStep copies bytes, and wants those to be zero for which the new field has no room.
type copyStep struct {
	field
	to, copied uint32
}

// planCopy compares two types. Fields that moved says are left at zero.
func planCopy(old, new btf.Type, moved ...string) (*copyPlan, error) {
	p := &copyPlan{}
	var err error
	if p.from, err = btf.Sizeof(old); err != nil {
		return nil, fmt.Errorf("read layout: %w", err)
	}
	if p.size, err = btf.Sizeof(new); err != nil {
		return nil, fmt.Errorf("read layout: %w", err)
	}
	olds, err := fields(old)
	if err != nil {
		return nil, err
	}
	news, err := fields(new)
	if err != nil {
		return nil, err
	}
	byPath := map[string]field{}
	for _, f := range news {
		byPath[f.path] = f
	}
	for _, f := range olds {
		target, there := byPath[f.path]
		switch {
		case slices.Contains(moved, f.path) || f.isPadding():
		case !there || target.text != f.text:
			p.lost = append(p.lost, f)
		default:
			p.steps = append(p.steps, copyStep{f, target.at, min(f.size, target.size)})
		}
		if int(f.at)+int(f.size) > p.from || there && int(target.at)+int(target.size) > p.size {
			return nil, fmt.Errorf("read layout: %s lies outside of its value", f.path)
		}
	}
	return p, nil
}

func (f field) isPadding() bool {
	name := f.path[strings.LastIndexByte(f.path, '.')+1:]
	return strings.HasPrefix(name, "pad")
}

// convert writes the new value into out, which has its size. Numbers are little endian, as the objects are.
func (p *copyPlan) convert(out, old []byte) error {
	if len(old) < p.from || len(out) < p.size {
		return fmt.Errorf("a value has %d bytes, its layout says %d", len(old), p.from)
	}
	clear(out)
	for i := range p.steps {
		s := &p.steps[i]
		copy(out[s.to:s.to+s.copied], old[s.at:s.at+s.copied])
		if !p.lenient && s.copied < s.size && !isZero(old[s.at+s.copied:s.at+s.size]) {
			return errLeftOver(s.path, "is too large for this version")
		}
	}
	for _, f := range p.lost {
		if !p.lenient && !isZero(old[f.at:f.at+f.size]) {
			return errLeftOver(f.path, "means nothing to this version")
		}
	}
	return nil
}

func errLeftOver(path, why string) error {
	return fmt.Errorf("field %s %s", path, why)
}

func isZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, one := range b {
		if one != 0 {
			return false
		}
	}
	return true
}

// reader finds the fields of a value by name.
type reader map[string]field

func newReader(t btf.Type) (reader, error) {
	all, err := fields(t)
	if err != nil {
		return nil, err
	}
	r := reader{}
	for _, f := range all {
		r[f.path] = f
	}
	return r, nil
}

// number is a field's number; 0 where there is none.
func (r reader) number(value []byte, path string) uint64 {
	f, ok := r[path]
	if !ok || int(f.at)+int(f.size) > len(value) || f.size > 8 {
		return 0
	}
	var word [8]byte
	copy(word[:], value[f.at:f.at+f.size])
	return binary.LittleEndian.Uint64(word[:])
}

// bytes is a field as it lies there.
func (r reader) bytes(value []byte, path string) []byte {
	f, ok := r[path]
	if !ok || int(f.at)+int(f.size) > len(value) {
		return nil
	}
	return value[f.at : f.at+f.size]
}

func (r reader) text(value []byte, path string) string {
	s, _, _ := bytes.Cut(r.bytes(value, path), []byte{0})
	return string(s)
}

// want is an error unless the value has all these fields.
func (r reader) want(paths ...string) error {
	for _, path := range paths {
		if _, ok := r[path]; !ok {
			return fmt.Errorf("read layout: there is no field %s", path)
		}
	}
	return nil
}
