// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// mapSet is the pinned maps of one instance, a field a map.
type mapSet struct {
	Meta          *ebpf.Map `ebpf:"meta"`
	Control       *ebpf.Map `ebpf:"control"`
	Policies      *ebpf.Map `ebpf:"policies"`
	Meters        *ebpf.Map `ebpf:"meters"`
	Aggregates    *ebpf.Map `ebpf:"aggregates"`
	ListIndex     *ebpf.Map `ebpf:"list_index"`
	AllowHosts    *ebpf.Map `ebpf:"allow_hosts"`
	AllowPrefixes *ebpf.Map `ebpf:"allow_prefixes"`
	BlockHosts    *ebpf.Map `ebpf:"block_hosts"`
	BlockPrefixes *ebpf.Map `ebpf:"block_prefixes"`
	ListNotes     *ebpf.Map `ebpf:"list_notes"`
	Counters      *ebpf.Map `ebpf:"counters"`
	Sources       *ebpf.Map `ebpf:"sources"`
	LedgerBudget  *ebpf.Map `ebpf:"ledger_budget"`
	Interfaces    *ebpf.Map `ebpf:"interfaces"`
}

// byName walks the fields under the names that the object, the pins and the commands share.
func (m *mapSet) byName() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		limiterMapMeta:          &m.Meta,
		limiterMapControl:       &m.Control,
		limiterMapPolicies:      &m.Policies,
		limiterMapMeters:        &m.Meters,
		limiterMapAggregates:    &m.Aggregates,
		limiterMapListIndex:     &m.ListIndex,
		limiterMapAllowHosts:    &m.AllowHosts,
		limiterMapAllowPrefixes: &m.AllowPrefixes,
		limiterMapBlockHosts:    &m.BlockHosts,
		limiterMapBlockPrefixes: &m.BlockPrefixes,
		limiterMapListNotes:     &m.ListNotes,
		limiterMapCounters:      &m.Counters,
		limiterMapSources:       &m.Sources,
		limiterMapLedgerBudget:  &m.LedgerBudget,
		limiterMapInterfaces:    &m.Interfaces,
	}
}

func (m *mapSet) close() {
	for _, field := range m.byName() {
		if *field != nil {
			(*field).Close()
		}
	}
}

// createMaps makes an instance's maps in the kernel. They live until they are closed or pinned.
func createMaps() (*mapSet, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise memlock limit: %w", err)
	}
	spec, err := loadLimiter()
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	m := &mapSet{}
	for name, field := range m.byName() {
		*field, err = ebpf.NewMap(spec.Maps[name])
		if err != nil {
			m.close()
			return nil, fmt.Errorf("create map %s: %w", name, err)
		}
	}
	meta := limiterMeta{Abi: uint32(limiterAbiABI_VERSION)}
	if err := m.Meta.Put(uint32(0), meta); err != nil {
		m.close()
		return nil, fmt.Errorf("write map meta: %w", err)
	}
	return m, nil
}

func (m *mapSet) pin(dir pinDir) error {
	for name, field := range m.byName() {
		if err := (*field).Pin(filepath.Join(dir.maps(), name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// openMaps opens the pinned maps of dir and trusts none of them before their shape and ABI are known.
func openMaps(dir pinDir) (*mapSet, error) {
	spec, err := loadLimiter()
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	m := &mapSet{}
	for name, field := range m.byName() {
		path := filepath.Join(dir.maps(), name)
		*field, err = ebpf.LoadPinnedMap(path, nil)
		if err == nil {
			err = spec.Maps[name].Compatible(*field)
		}
		if err != nil {
			m.close()
			return nil, fmt.Errorf("open map %s: %w; another version of synward made it: use that one, or detach --all with it first", path, err)
		}
	}
	var meta limiterMeta
	if err := m.Meta.Lookup(uint32(0), &meta); err != nil {
		m.close()
		return nil, fmt.Errorf("read map meta: %w", err)
	}
	if meta.Abi != uint32(limiterAbiABI_VERSION) {
		m.close()
		return nil, fmt.Errorf("pins in %s have ABI %d and this synward speaks %d: use the version that made them", dir, meta.Abi, uint32(limiterAbiABI_VERSION))
	}
	return m, nil
}

// frozen are the settings that are compiled into a program when it is loaded.
type frozen struct {
	slot       uint32
	linkHeader bool
}

// loadProgram loads the program for a hook on the maps of m.
func (m *mapSet) loadProgram(h hook, f frozen) (*ebpf.Program, error) {
	prog, _, err := m.loadVerbose(h, f, 0)
	return prog, err
}

// loadVerbose also returns the verifier's log, at this level.
func (m *mapSet) loadVerbose(h hook, f frozen, level ebpf.LogLevel) (*ebpf.Program, string, error) {
	spec, err := f.spec(h)
	if err != nil {
		return nil, "", err
	}
	opts := ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{}}
	opts.Programs.LogLevel = level
	for name, field := range m.byName() {
		opts.MapReplacements[name] = *field
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, opts)
	if err != nil {
		return nil, "", loadError(err)
	}
	defer coll.Close()
	prog := coll.DetachProgram(h.program())
	return prog, prog.VerifierLog, nil
}

// spec is the object with only the program of a hook in it, and its settings frozen.
func (f frozen) spec(h hook) (*ebpf.CollectionSpec, error) {
	spec, err := loadLimiter()
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	for other := range spec.Programs {
		if other != h.program() {
			delete(spec.Programs, other)
		}
	}
	set := map[string]any{
		limiterVarInterfaceSlot: f.slot,
		limiterVarHasLinkHeader: f.linkHeader,
	}
	for variable, value := range set {
		if err := spec.Variables[variable].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", variable, err)
		}
	}
	return spec, nil
}

// loadError keeps the verifier's last words and drops the pages before them.
func loadError(err error) error {
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return fmt.Errorf("load program: the kernel's verifier refused it: %w", verifier)
	}
	return fmt.Errorf("load program: %w", err)
}
