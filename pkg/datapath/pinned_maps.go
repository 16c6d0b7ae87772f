// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// pinnedMaps is an instance as it lies there, whatever version made it. All of it is input.
type pinnedMaps struct {
	dir pinDir
	abi uint32
	*layout
	maps map[string]*ebpf.Map
}

// openPinned opens the maps of dir by the layout that lies beside them. ErrRefused: what lies there cannot be
// read.
func openPinned(dir pinDir) (*pinnedMaps, error) {
	abi, err := readABI(dir)
	if err != nil {
		return nil, err
	}
	p := &pinnedMaps{dir: dir, abi: abi, maps: map[string]*ebpf.Map{}}
	if p.layout, err = readLayout(dir); err == nil {
		err = p.openMaps()
	}
	if err != nil {
		p.close()
		return nil, p.refuse(err)
	}
	return p, nil
}

// refuse says what to do about maps that cannot be carried over.
func (p *pinnedMaps) refuse(err error) error {
	return fail(ErrRefused, "the maps in %s (ABI %d) cannot be carried over: %w; go on with the version that made them, or begin afresh: synward detach --all, then attach",
		p.dir, p.abi, err)
}

func (p *pinnedMaps) openMaps() error {
	entries, err := os.ReadDir(p.dir.maps())
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if name == pinLayout || strings.HasPrefix(name, pinFrom) {
			continue
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(p.dir.maps(), name), nil)
		if err != nil {
			return fmt.Errorf("open map %s: %w", name, err)
		}
		p.maps[name] = m
		if err := p.checkShape(name, m); err != nil {
			return err
		}
	}
	return nil
}

// checkShape wants a map to be as large as the layout says, so that no field lies outside of it.
func (p *pinnedMaps) checkShape(name string, m *ebpf.Map) error {
	key, err := p.key(name)
	if err != nil {
		return fmt.Errorf("map %s: %w", name, err)
	}
	value, err := p.value(name)
	if err != nil {
		return fmt.Errorf("map %s: %w", name, err)
	}
	keySize, keyErr := btf.Sizeof(key)
	valueSize, valueErr := btf.Sizeof(value)
	if err := errors.Join(keyErr, valueErr); err != nil {
		return fmt.Errorf("map %s: %w", name, err)
	}
	if keySize != int(m.KeySize()) || valueSize != int(m.ValueSize()) {
		return fmt.Errorf("map %s is not as its layout says (%d and %d bytes, not %d and %d)", name, m.KeySize(), m.ValueSize(), keySize, valueSize)
	}
	return nil
}

func (p *pinnedMaps) close() {
	for _, m := range p.maps {
		m.Close()
	}
}

// rawMap is one map with its types.
type rawMap struct {
	*ebpf.Map
	key, value btf.Type
}

// get finds a map. ok is false where that version had none of this name.
func (p *pinnedMaps) get(name string) (m rawMap, ok bool, err error) {
	if !p.has(name) {
		return rawMap{}, false, nil
	}
	m.Map, ok = p.maps[name]
	if !ok {
		return rawMap{}, false, fmt.Errorf("map %s is missing", name)
	}
	if m.key, err = p.layout.key(name); err == nil {
		m.value, err = p.layout.value(name)
	}
	return m, err == nil, err
}

// need finds a map without which nothing makes sense.
func (p *pinnedMaps) need(name string) (rawMap, error) {
	m, ok, err := p.get(name)
	if err == nil && !ok {
		err = fmt.Errorf("map %s is missing", name)
	}
	return m, err
}

// single reads the one value of a map, with its fields.
func (m rawMap) single(read ...string) ([]byte, reader, error) {
	r, err := newReader(m.value)
	if err == nil {
		err = r.want(read...)
	}
	if err != nil {
		return nil, nil, err
	}
	raw, err := m.LookupBytes(uint32(0))
	if err != nil || raw == nil {
		return nil, nil, fmt.Errorf("read %s: %w", m.Map, errors.Join(err, fs.ErrNotExist))
	}
	return raw, r, nil
}

// member finds an array inside a value: where it begins, how many elements it has and of what type.
func (m rawMap) member(name string) (at uint32, t *btf.Array, err error) {
	s, ok := btf.UnderlyingType(m.value).(*btf.Struct)
	if ok {
		for _, member := range s.Members {
			if array, ok := btf.UnderlyingType(member.Type).(*btf.Array); ok && member.Name == name {
				return member.Offset.Bytes(), array, nil
			}
		}
	}
	return 0, nil, fmt.Errorf("read layout: there is no field %s", name)
}

// programs are those that an attachment's hook may run while nothing is wrong: the one pinned, and one that was
// about to take its place when a command was killed.
func (d pinDir) programs(name string) map[ebpf.ProgramID]bool {
	out := map[ebpf.ProgramID]bool{}
	for _, path := range []string{filepath.Join(d.progs(), name), filepath.Join(d.progs(), name) + nextMark} {
		if id, err := pinnedProgramID(path); err == nil {
			out[id] = true
		}
	}
	return out
}

// unknownPins are attachments that this version does not know how to deal with.
func (d pinDir) unknownPins() ([]string, error) {
	var unknown []string
	for _, dir := range []string{d.progs(), d.links()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list pins: %w", err)
		}
		for _, e := range entries {
			ofConns := slices.ContainsFunc(connHooks(), func(h connHook) bool { return h.pin == e.Name() })
			if _, err := parsePinKey(strings.TrimSuffix(e.Name(), nextMark)); err != nil && !ofConns {
				unknown = append(unknown, e.Name())
			}
		}
	}
	return unknown, nil
}
