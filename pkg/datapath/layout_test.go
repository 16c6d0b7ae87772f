// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

func number(size uint32) btf.Type { return &btf.Int{Name: "number", Size: size} }

// record lays its fields out one behind the other.
func record(members ...btf.Member) *btf.Struct {
	s := &btf.Struct{Name: "record"}
	for _, m := range members {
		size, _ := btf.Sizeof(m.Type)
		m.Offset = btf.Bits(8 * s.Size)
		s.Members = append(s.Members, m)
		s.Size += uint32(size)
	}
	return s
}

func member(name string, t btf.Type) btf.Member { return btf.Member{Name: name, Type: t} }

func bytesOf(n uint32) btf.Type { return &btf.Array{Index: number(4), Type: number(1), Nelems: n} }

// A value goes from one layout to another by the names of its fields; what has no place there is an error.
func TestCopyPlan(t *testing.T) {
	old := record(member("a", number(8)), member("b", number(4)), member("pad1", number(4)), member("text", bytesOf(8)),
		member("many", &btf.Array{Index: number(4), Type: record(member("n", number(2))), Nelems: 4}))
	for name, row := range map[string]struct {
		new     *btf.Struct
		in, out []byte
		says    string
	}{
		"same":                {old, binary.LittleEndian.AppendUint64(nil, 5), binary.LittleEndian.AppendUint64(nil, 5), ""},
		"padding":             {record(member("a", number(8))), slices.Concat(make([]byte, 12), []byte{1}), make([]byte, 8), ""},
		"reordered":           {record(member("b", number(4)), member("a", number(8))), []byte{1, 0, 0, 0, 0, 0, 0, 9, 2}, []byte{2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9}, ""},
		"new field":           {record(member("new", number(4)), member("a", number(8))), []byte{7}, []byte{0, 0, 0, 0, 7}, ""},
		"wider":               {record(member("b", number(8))), slices.Concat(make([]byte, 8), []byte{1, 2, 3, 4}), []byte{1, 2, 3, 4, 0, 0, 0, 0}, ""},
		"narrower":            {record(member("a", number(2))), []byte{1, 2}, []byte{1, 2}, ""},
		"too large":           {record(member("a", number(2))), []byte{1, 2, 3}, nil, "field a is too large"},
		"gone":                {record(member("b", number(4))), []byte{1}, nil, "field a means nothing"},
		"text":                {record(member("text", bytesOf(4))), slices.Concat(make([]byte, 16), []byte("abc")), []byte("abc\x00"), ""},
		"long text":           {record(member("text", bytesOf(4))), slices.Concat(make([]byte, 16), []byte("abcde")), nil, "field text is too large"},
		"not a text any more": {record(member("text", number(8))), slices.Concat(make([]byte, 16), []byte("a")), nil, "field text means nothing"},
		"array": {record(member("many", &btf.Array{Index: number(4), Type: record(member("n", number(2)), member("new", number(2))), Nelems: 2})),
			slices.Concat(make([]byte, 24), []byte{1, 0, 2}), []byte{1, 0, 0, 0, 2}, ""},
		"shorter array": {record(member("many", &btf.Array{Index: number(4), Type: record(member("n", number(2))), Nelems: 2})),
			slices.Concat(make([]byte, 28), []byte{1}), nil, "field many[2].n means nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := planCopy(old, row.new)
			must(t, err)
			in := make([]byte, old.Size)
			copy(in, row.in)
			out := bytes.Repeat([]byte{0xff}, int(row.new.Size))
			err = plan.convert(out, in)
			if row.says != "" {
				if err == nil || !strings.Contains(err.Error(), row.says) {
					t.Errorf("got %v, want %q", err, row.says)
				}
				return
			}
			want := make([]byte, row.new.Size)
			copy(want, row.out)
			if err != nil || !bytes.Equal(out, want) {
				t.Errorf("got %v %v, want %v", out, err, want)
			}
		})
	}
}

// What this version writes beside its maps describes them.
func TestLayoutDescribesTheMaps(t *testing.T) {
	l, err := ownLayout()
	must(t, err)
	spec, err := loadLimiter()
	must(t, err)
	for pin := range (&mapSet{}).byName() {
		key, err := l.key(pin)
		must(t, err)
		value, err := l.value(pin)
		must(t, err)
		keySize, _ := btf.Sizeof(key)
		valueSize, _ := btf.Sizeof(value)
		if m := spec.Maps[specName(pin)]; uint32(keySize) != m.KeySize || uint32(valueSize) != m.ValueSize {
			t.Errorf("%s: described as %d and %d bytes, is %v", pin, keySize, valueSize, m)
		}
	}
	for _, name := range layoutEnums {
		if len(l.enum(name)) == 0 {
			t.Errorf("enum %s is not described", name)
		}
	}
	counted, err := countFields(l)
	must(t, err)
	if want := 2 * int(countersPerInterface+2*uint32(limiterAbiNEAR_IDS)); len(counted) < want-8 || len(counted) > want {
		t.Errorf("%d counts of an interface are carried over, want %d but for reason none", len(counted), want)
	}
}

// A layout is input.
func FuzzLayout(f *testing.F) {
	raw, err := layoutBytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{})
	own, err := ownLayout()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, raw []byte) {
		l, err := parseLayout(raw)
		if err != nil {
			return
		}
		for _, m := range listMapNames() {
			from, err := l.value(m.name)
			if err != nil {
				continue
			}
			to, _ := own.value(m.name)
			if plan, err := planCopy(from, to, "hits"); err == nil && plan.from < 1<<20 {
				_ = plan.convert(make([]byte, plan.size), make([]byte, plan.from))
			}
		}
		_, _ = countWords(l, own)
	})
}
