// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// pinLayout is a map beside the others that describes them: their types and the names of values, as BTF. By it
// another version of synward reads what it does not know. Whatever else changes, it stays what it is: an
// array of one value.
const pinLayout = "layout"

// layoutEnums are the names of values that data in the maps, or its place there, is told by.
var layoutEnums = []string{
	"abi", "reason", "action", "scope", "list_id", "limit_kind", "limit_per", "interface_flag", "source_flag", "policy_text",
	"feed_state",
}

// rebuiltMaps hold nothing that a version which does not know them would have to carry over: it is made anew, or
// forgotten without harm.
var rebuiltMaps = []string{
	limiterMapMeta, pinControl, pinTables, limiterMapLocals, limiterMapSets, limiterMapQuicSecrets, limiterMapQuicRecent,
	limiterMapChanges,
	// Sockets are counted anew.
	limiterMapConns, limiterMapConnSockets, limiterMapConnNotes, limiterMapConnListening, limiterMapConnControls,
	limiterMapPending, limiterMapWaiting, limiterMapServicePlaces,
	// A strike or two less; who is banned is none of them.
	limiterMapStrikes, limiterMapBanTerms, limiterMapProtected, limiterMapAckedSockets,
}

// layout says where in the values of an instance's maps each field lies. It is read from pins: input.
type layout struct{ types *btf.Spec }

// layoutBytes describes the maps that this version makes.
func layoutBytes() ([]byte, error) {
	spec, err := limiterObject()
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	var b btf.Builder
	add := func(name string, t btf.Type) error {
		_, err := b.Add(&btf.Typedef{Name: name, Type: t})
		return err
	}
	for pin := range (&mapSet{}).byName() {
		m := spec.Maps[specName(pin)]
		key, value := mapTypes(m)
		if key == nil || value == nil {
			return nil, fmt.Errorf("describe map %s: the object has no types for it", pin)
		}
		if err := add("key_"+pin, key); err != nil {
			return nil, fmt.Errorf("describe map %s: %w", pin, err)
		}
		if err := add("value_"+pin, value); err != nil {
			return nil, fmt.Errorf("describe map %s: %w", pin, err)
		}
	}
	for _, pin := range rebuiltMaps {
		if err := add("rebuilt_"+pin, &btf.Void{}); err != nil {
			return nil, fmt.Errorf("describe map %s: %w", pin, err)
		}
	}
	for _, name := range layoutEnums {
		var e *btf.Enum
		err := spec.Types.TypeByName(name, &e)
		if err == nil {
			_, err = b.Add(e)
		}
		if err != nil {
			return nil, fmt.Errorf("describe enum %s: %w", name, err)
		}
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		return nil, fmt.Errorf("describe maps: %w", err)
	}
	return raw, nil
}

// mapTypes are what a map is keyed by and holds; a data section holds its one variable.
func mapTypes(m *ebpf.MapSpec) (key, value btf.Type) {
	section, ok := m.Value.(*btf.Datasec)
	if !ok {
		return m.Key, m.Value
	}
	if len(section.Vars) != 1 {
		return nil, nil
	}
	v, ok := section.Vars[0].Type.(*btf.Var)
	if !ok {
		return nil, nil
	}
	return &btf.Int{Name: "__u32", Size: m.KeySize}, v.Type
}

func ownLayout() (*layout, error) {
	raw, err := layoutBytes()
	if err != nil {
		return nil, err
	}
	return parseLayout(raw)
}

func parseLayout(raw []byte) (*layout, error) {
	types, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read layout: %w", err)
	}
	return &layout{types}, nil
}

// createLayout makes the map that describes the others. Nothing changes it any more.
func createLayout() (*ebpf.Map, error) {
	raw, err := layoutBytes()
	if err != nil {
		return nil, err
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: pinLayout, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(raw)), MaxEntries: 1,
		Contents: []ebpf.MapKV{{Key: uint32(0), Value: raw}},
	})
	if err != nil {
		return nil, fmt.Errorf("create map %s: %w", pinLayout, err)
	}
	return m, nil
}

// keepLayout describes the maps of dir, which this version can read, if nothing does yet.
func (d pinDir) keepLayout() error {
	path := filepath.Join(d.maps(), pinLayout)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	m, err := createLayout()
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Pin(path); err != nil {
		return fmt.Errorf("pin map %s: %w", pinLayout, err)
	}
	return nil
}

// readLayout reads how the maps of dir are laid out.
func readLayout(dir pinDir) (*layout, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir.maps(), pinLayout), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("open map %s: %w", pinLayout, err)
	}
	defer m.Close()
	raw, err := m.LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("read map %s: %w", pinLayout, err)
	}
	return parseLayout(raw)
}

// has: these maps have one of this name.
func (l *layout) has(pin string) bool {
	_, err := l.value(pin)
	return err == nil
}

// rebuilt: what is in this map need not be carried over.
func (l *layout) rebuilt(pin string) bool {
	_, err := l.typedef("rebuilt_" + pin)
	return err == nil
}

func (l *layout) key(pin string) (btf.Type, error)   { return l.typedef("key_" + pin) }
func (l *layout) value(pin string) (btf.Type, error) { return l.typedef("value_" + pin) }

func (l *layout) typedef(name string) (btf.Type, error) {
	var t *btf.Typedef
	if err := l.types.TypeByName(name, &t); err != nil {
		return nil, fmt.Errorf("read layout: %w", err)
	}
	return t.Type, nil
}

// enum is the values of an enumeration by name; empty where it is not described.
func (l *layout) enum(name string) map[string]uint64 {
	out := map[string]uint64{}
	var e *btf.Enum
	if l.types.TypeByName(name, &e) == nil {
		for _, v := range e.Values {
			out[v.Name] = v.Value
		}
	}
	return out
}

// number is one of the sizes that the layout was compiled with.
func (l *layout) number(enum, name string) (uint32, error) {
	n, ok := l.enum(enum)[name]
	if !ok || n == 0 || n > 1<<24 {
		return 0, fmt.Errorf("read layout: %s has no use as %s", enum, name)
	}
	return uint32(n), nil
}

// field is one number, or one run of bytes, of a value.
type field struct {
	path     string
	at, size uint32
	text     bool // bytes, and no number
}

// fields are all that a type consists of.
func fields(t btf.Type) ([]field, error) {
	var w fieldWalk
	err := w.add(t, "", 0)
	return w.found, err
}

// maxFields bounds what a layout can make us do; the largest value that is taken apart has 400.
const maxFields = 1 << 13

// fieldWalk takes a type apart.
type fieldWalk struct {
	found []field
	steps int
}

func (w *fieldWalk) add(t btf.Type, path string, at uint32) error {
	if w.steps++; w.steps > maxFields {
		return fmt.Errorf("read layout: %s has too many fields", path)
	}
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Int:
		w.found = append(w.found, field{path: path, at: at, size: t.Size})
	case *btf.Enum:
		w.found = append(w.found, field{path: path, at: at, size: t.Size})
	case *btf.Struct:
		return w.addMembers(t, path, at)
	case *btf.Array:
		return w.addElements(t, path, at)
	default:
		return fmt.Errorf("read layout: %s is a %T", path, t)
	}
	return nil
}

func (w *fieldWalk) addMembers(t *btf.Struct, path string, at uint32) error {
	for _, m := range t.Members {
		if m.BitfieldSize != 0 || m.Offset%8 != 0 {
			return fmt.Errorf("read layout: %s.%s is no whole bytes", path, m.Name)
		}
		name := m.Name
		if path != "" {
			name = path + "." + name
		}
		if err := w.add(m.Type, name, at+m.Offset.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

func (w *fieldWalk) addElements(t *btf.Array, path string, at uint32) error {
	size, err := btf.Sizeof(t.Type)
	if err != nil {
		return fmt.Errorf("read layout: %w", err)
	}
	if number, ok := btf.UnderlyingType(t.Type).(*btf.Int); ok && number.Size == 1 {
		w.found = append(w.found, field{path: path, at: at, size: t.Nelems, text: true})
		return nil
	}
	for n := range t.Nelems {
		if err := w.add(t.Type, fmt.Sprintf("%s[%d]", path, n), at+n*uint32(size)); err != nil {
			return err
		}
	}
	return nil
}
