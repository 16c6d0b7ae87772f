// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// rawBatch is room for entries of a map as bytes, whatever their types.
type rawBatch struct {
	keys, values   reflect.Value // slices of arrays of bytes
	keyAt, valueAt []byte        // the same memory
	keySize, size  int
	room           int
}

func newRawBatch(keySize, valueSize, room int) *rawBatch {
	b := &rawBatch{keySize: keySize, size: valueSize, room: room}
	b.keys, b.keyAt = rawSlice(keySize, room)
	b.values, b.valueAt = rawSlice(valueSize, room)
	return b
}

// rawSlice makes a slice whose elements are of this size, as a batch operation wants it.
func rawSlice(size, room int) (reflect.Value, []byte) {
	s := reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(size, reflect.TypeFor[byte]())), room, room)
	return s, unsafe.Slice((*byte)(s.UnsafePointer()), size*room)
}

func (b *rawBatch) key(n int) []byte   { return b.keyAt[n*b.keySize:][:b.keySize:b.keySize] }
func (b *rawBatch) value(n int) []byte { return b.valueAt[n*b.size:][:b.size:b.size] }

// eachBatch reads a map that is not per CPU by batches. Entries that are added meanwhile may be missed.
func eachBatch(m *ebpf.Map, visit func(b *rawBatch, n int) error) error {
	if m.Type() == ebpf.Array {
		return eachElement(m, visit)
	}
	room := readBatch
	if m.ValueSize() > 1024 {
		room = 256
	}
	b := newRawBatch(int(m.KeySize()), int(m.ValueSize()), room)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, b.keys.Interface(), b.values.Interface(), nil)
		if err != nil && !isMissing(err) {
			return fmt.Errorf("read %s: %w", m, err)
		}
		if n > 0 {
			if err := visit(b, n); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

// eachElement reads an array, whose keys are its places.
func eachElement(m *ebpf.Map, visit func(b *rawBatch, n int) error) error {
	b := newRawBatch(int(m.KeySize()), int(m.ValueSize()), 1)
	for at := range m.MaxEntries() {
		raw, err := m.LookupBytes(at)
		if err != nil {
			return fmt.Errorf("read %s: %w", m, err)
		}
		copy(b.keyAt, (*[4]byte)(unsafe.Pointer(&at))[:])
		copy(b.valueAt, raw)
		if err := visit(b, 1); err != nil {
			return err
		}
	}
	return nil
}

// put writes the first n entries of a batch. ErrFull if they do not fit.
func (b *rawBatch) put(m *ebpf.Map, n int, flags ebpf.MapUpdateFlags) error {
	if n == 0 {
		return nil
	}
	_, err := m.BatchUpdate(b.keys.Slice(0, n).Interface(), b.values.Slice(0, n).Interface(), &ebpf.BatchOptions{ElemFlags: uint64(flags)})
	switch {
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC):
		return fail(ErrFull, "%s has room for %d entries, and there are more", m, m.MaxEntries())
	case err != nil:
		return fmt.Errorf("write %s: %w", m, err)
	}
	return nil
}
