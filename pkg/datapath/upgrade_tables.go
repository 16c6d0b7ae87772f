// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf/btf"
)

// as reads a value of this version's layout.
func as[T any](raw []byte) (v T) {
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v)), raw)
	return v
}

// rawOf is the reverse, without a copy.
func rawOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }

// sourceTables are the large tables of another version.
type sourceTables struct {
	raw              []byte
	services, limits sourceArray
	slots            uint32
	limitsPerPolicy  uint32
}

// sourceArray is one array in there.
type sourceArray struct {
	at, size, elements uint32
	reader
}

func (s *source) readTables() (*sourceTables, error) {
	m, err := s.need(pinTables)
	if err != nil {
		return nil, err
	}
	t := &sourceTables{}
	if t.slots, err = s.number("abi", "POLICY_SLOTS"); err != nil {
		return nil, err
	}
	if t.limitsPerPolicy, err = s.number("abi", "MAX_LIMITS"); err != nil {
		return nil, err
	}
	if t.services, err = m.array("services", "id"); err != nil {
		return nil, err
	}
	if t.limits, err = m.array("limits", "id", "kind", "per"); err != nil {
		return nil, err
	}
	if t.raw, err = m.LookupBytes(uint32(0)); err != nil {
		return nil, fmt.Errorf("read %s: %w", m.Map, err)
	}
	return t, nil
}

func (m rawMap) array(name string, wanted ...string) (sourceArray, error) {
	at, t, err := m.member(name)
	if err != nil {
		return sourceArray{}, err
	}
	size, err := btf.Sizeof(t.Type)
	if err != nil {
		return sourceArray{}, fmt.Errorf("read layout: %w", err)
	}
	r, err := newReader(t.Type)
	if err == nil {
		err = r.want(wanted...)
	}
	return sourceArray{at, uint32(size), t.Nelems, r}, err
}

// element is the n-th of a generation's slot.
func (t *sourceTables) element(a sourceArray, generation uint16, n uint32) ([]byte, error) {
	perSlot := a.elements / t.slots
	at := uint64(a.at) + (uint64(uint32(generation)%t.slots)*uint64(perSlot)+uint64(n))*uint64(a.size)
	if n >= perSlot || at+uint64(a.size) > uint64(len(t.raw)) {
		return nil, errDamaged("policy in force")
	}
	return t.raw[at : at+uint64(a.size)], nil
}

func (t *sourceTables) service(generation uint16, n uint32) (id uint64, err error) {
	raw, err := t.element(t.services, generation, n)
	return t.services.number(raw, "id"), err
}

// limit reads what stays of a limit. The last two places are those of answers in every version.
func (t *sourceTables) limit(generation uint16, at uint32) (id, kind, per uint64, err error) {
	if at >= answerSourceAt {
		at = t.limitsPerPolicy - (uint32(limiterAbiMAX_LIMITS) - at)
	}
	raw, err := t.element(t.limits, generation, at)
	return t.limits.number(raw, "id"), t.limits.number(raw, "kind"), t.limits.number(raw, "per"), err
}

// checkCounters refuses counts that this version has no name for, where there are any.
func (s *source) checkCounters() error {
	m, err := s.need(limiterMapCounters)
	if err != nil {
		return err
	}
	words, err := countWords(s.layout, s.own)
	if err != nil {
		return err
	}
	carried := map[uint32]bool{}
	for _, w := range words {
		carried[w.From] = true
	}
	counted, err := countFields(s.layout)
	if err != nil {
		return err
	}
	stride := int(m.ValueSize()+7) &^ 7
	for slot := range m.MaxEntries() {
		raw, err := m.LookupBytes(slot)
		if err != nil {
			return fmt.Errorf("read %s: %w", m.Map, err)
		}
		for lane := 0; lane+stride <= len(raw); lane += stride {
			for path, f := range counted {
				if !carried[f.at] && !isZero(raw[lane+int(f.at):lane+int(f.at+f.size)]) {
					return fmt.Errorf("counter %s is none of this version", path)
				}
			}
		}
	}
	return nil
}

// endFields are where packets are counted by how they ended, under the names of reason and action.
func endFields(l *layout) (map[string]field, error) {
	t, err := l.value(limiterMapCounters)
	if err != nil {
		return nil, err
	}
	r, err := newReader(t)
	if err != nil {
		return nil, err
	}
	actions := l.enum("action")
	out := map[string]field{}
	for reason, n := range l.enum("reason") {
		for action, m := range actions {
			if reason == "REASON_COUNT" || action == "ACTION_COUNT" {
				continue
			}
			for _, what := range []string{"packets", "bytes"} {
				if f, ok := r[fmt.Sprintf("by_end[%d].%s", n*actions["ACTION_COUNT"]+m, what)]; ok && f.size == 8 {
					out[reason+" "+action+" "+what] = f
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("read layout: packets are not counted by how they end")
	}
	return out, nil
}

// countFields are all counts of an interface, by a name that means the same in every version.
func countFields(l *layout) (map[string]field, error) {
	out, err := endFields(l)
	if err != nil {
		return nil, err
	}
	t, err := l.value(limiterMapCounters)
	if err != nil {
		return nil, err
	}
	r, err := newReader(t)
	if err != nil {
		return nil, err
	}
	near, err := l.number("abi", "NEAR_IDS")
	if err != nil {
		return nil, err
	}
	for n := range near {
		for _, what := range []string{"near_limits", "near_services"} {
			for _, unit := range []string{"packets", "bytes"} {
				path := fmt.Sprintf("%s[%d].%s", what, n, unit)
				if f, ok := r[path]; ok && f.size == 8 {
					out[path] = f
				}
			}
		}
	}
	return out, nil
}

// countWords says where each count of an interface goes.
func countWords(from, to *layout) ([]carryCarryWord, error) {
	old, err := countFields(from)
	if err != nil {
		return nil, err
	}
	new, err := countFields(to)
	if err != nil {
		return nil, err
	}
	var words []carryCarryWord
	for name, f := range old {
		if target, ok := new[name]; ok {
			words = append(words, carryCarryWord{From: f.at, To: target.at})
		}
	}
	return words, nil
}

// fieldWords is the same for single fields of another map. All are 64 bits.
func fieldWords(from, to rawMap, names ...string) ([]carryCarryWord, error) {
	old, err := newReader(from.value)
	if err != nil {
		return nil, err
	}
	new, err := newReader(to.value)
	if err != nil {
		return nil, err
	}
	var words []carryCarryWord
	for _, name := range names {
		f, ok := old[name]
		target, there := new[name]
		if !ok || !there || f.size != 8 || target.size != 8 {
			return nil, fmt.Errorf("read layout: %s of %s is no count", name, from.Map)
		}
		words = append(words, carryCarryWord{From: f.at, To: target.at})
	}
	return words, nil
}

func elementKey(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
