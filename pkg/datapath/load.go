// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Two maps are data sections, so that programs have their address; they are pinned under other names.
const (
	pinControl, sectionControl = "control", ".data.control"
	pinTables, sectionTables   = "tables", ".bss"
)

// mapSet is the pinned maps of one instance, a field a map.
type mapSet struct {
	Meta            *ebpf.Map
	Control         *ebpf.Map
	Locals          *ebpf.Map
	Sets            *ebpf.Map
	Tables          *ebpf.Map
	AllowHosts      *ebpf.Map
	AllowPrefixes   *ebpf.Map
	BlockHosts      *ebpf.Map
	BlockPrefixes   *ebpf.Map
	ListNotes       *ebpf.Map
	Feeds           *ebpf.Map
	QuicSecrets     *ebpf.Map
	QuicRecent      *ebpf.Map
	Counters        *ebpf.Map
	ServiceCounters *ebpf.Map
	LimitCounters   *ebpf.Map
	ServiceBases    *ebpf.Map
	LimitBases      *ebpf.Map
	Sources         *ebpf.Map
	Interfaces      *ebpf.Map
	ServiceNames    *ebpf.Map
	PolicyTexts     *ebpf.Map
	Changes         *ebpf.Map
	connMaps
	banMaps
	// Layout describes the others, see pinLayout. Nil where they were opened.
	Layout *ebpf.Map
}

// byName walks the fields under the names that the pins and the commands share.
func (m *mapSet) byName() map[string]**ebpf.Map {
	all := map[string]**ebpf.Map{
		limiterMapMeta:            &m.Meta,
		pinControl:                &m.Control,
		limiterMapLocals:          &m.Locals,
		limiterMapSets:            &m.Sets,
		pinTables:                 &m.Tables,
		limiterMapAllowHosts:      &m.AllowHosts,
		limiterMapAllowPrefixes:   &m.AllowPrefixes,
		limiterMapBlockHosts:      &m.BlockHosts,
		limiterMapBlockPrefixes:   &m.BlockPrefixes,
		limiterMapListNotes:       &m.ListNotes,
		limiterMapFeeds:           &m.Feeds,
		limiterMapQuicSecrets:     &m.QuicSecrets,
		limiterMapQuicRecent:      &m.QuicRecent,
		limiterMapCounters:        &m.Counters,
		limiterMapServiceCounters: &m.ServiceCounters,
		limiterMapLimitCounters:   &m.LimitCounters,
		limiterMapServiceBases:    &m.ServiceBases,
		limiterMapLimitBases:      &m.LimitBases,
		limiterMapSources:         &m.Sources,
		limiterMapInterfaces:      &m.Interfaces,
		limiterMapServiceNames:    &m.ServiceNames,
		limiterMapPolicyTexts:     &m.PolicyTexts,
		limiterMapChanges:         &m.Changes,
	}
	maps.Copy(all, m.connMaps.byName())
	maps.Copy(all, m.banMaps.byName())
	return all
}

// specName is what the object calls a map.
func specName(pin string) string {
	switch pin {
	case pinControl:
		return sectionControl
	case pinTables:
		return sectionTables
	}
	return pin
}

// mapSpec is how a map is made. Sections are named and shared like any other map.
func mapSpec(spec *ebpf.CollectionSpec, pin string) *ebpf.MapSpec {
	m := spec.Maps[specName(pin)].Copy()
	m.Name = pin
	if specName(pin) != pin {
		m.Flags |= unix.BPF_F_MMAPABLE
	}
	return m
}

// replacements are the maps under the names that the object knows.
func (m *mapSet) replacements() map[string]*ebpf.Map {
	out := map[string]*ebpf.Map{}
	for name, field := range m.byName() {
		out[specName(name)] = *field
	}
	return out
}

func (m *mapSet) close() {
	for _, field := range m.byName() {
		if *field != nil {
			(*field).Close()
		}
	}
	if m.Layout != nil {
		m.Layout.Close()
	}
}

// limiterObject is the object file, read once a process: nothing in it may be changed.
var limiterObject = sync.OnceValues(loadLimiter)

// createMaps makes an instance's maps in the kernel. They live until they are closed or pinned.
func createMaps() (*mapSet, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise memlock limit: %w", err)
	}
	spec, err := limiterObject()
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	m := &mapSet{}
	for name, field := range m.byName() {
		*field, err = ebpf.NewMap(mapSpec(spec, name))
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
	if m.Layout, err = createLayout(); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *mapSet) pin(dir pinDir) error {
	for name, field := range m.byName() {
		if err := (*field).Pin(filepath.Join(dir.maps(), name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	if err := m.Layout.Pin(filepath.Join(dir.maps(), pinLayout)); err != nil {
		return fmt.Errorf("pin map %s: %w", pinLayout, err)
	}
	return nil
}

// openMaps opens the pinned maps of dir and trusts none of them before their shape and ABI are known.
func openMaps(dir pinDir) (*mapSet, error) {
	abi, err := readABI(dir)
	if err != nil {
		return nil, err
	}
	if abi != uint32(limiterAbiABI_VERSION) {
		return nil, fail(ErrOtherABI, "another version of synward made the maps in %s (ABI %d, this one speaks %d); to carry them over: synward upgrade",
			dir, abi, uint32(limiterAbiABI_VERSION))
	}
	spec, err := limiterObject()
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	m := &mapSet{}
	for name, field := range m.byName() {
		path := filepath.Join(dir.maps(), name)
		*field, err = ebpf.LoadPinnedMap(path, nil)
		if err == nil {
			err = mapSpec(spec, name).Compatible(*field)
		}
		if err != nil {
			m.close()
			return nil, errNotOurMap(path, err)
		}
	}
	return m, nil
}

func errNotOurMap(path string, err error) error {
	return fmt.Errorf("open map %s: %w; another version of synward made it: use that one, or detach --all with it first", path, err)
}

// readABI says which version of the maps lies in dir. The first 32 bits of meta say so in all versions.
func readABI(dir pinDir) (uint32, error) {
	path := filepath.Join(dir.maps(), limiterMapMeta)
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return 0, errNotOurMap(path, err)
	}
	defer m.Close()
	raw, err := m.LookupBytes(uint32(0))
	if err != nil || len(raw) < 4 {
		return 0, errNotOurMap(path, errors.Join(err, errors.New("it holds no version")))
	}
	return binary.LittleEndian.Uint32(raw), nil
}

// frozen are the settings that are compiled into a program when it is loaded.
type frozen struct {
	slot       uint32
	linkHeader bool
	// silent: no answers are sent.
	silent   bool
	features uint32
	// observeAfter, in seconds of CLOCK_MONOTONIC, is when it stops to refuse anything; 0 is never.
	observeAfter uint32
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
	opts := ebpf.CollectionOptions{MapReplacements: m.replacements()}
	opts.Programs.LogLevel = level
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
	shared, err := limiterObject()
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	spec := withOnly(shared, h.program())
	set := map[string]any{
		limiterVarInterfaceSlot: f.slot,
		limiterVarHasLinkHeader: f.linkHeader,
		limiterVarMaySend:       !f.silent,
		limiterVarFeatures:      f.features,
		limiterVarObserveAfter:  f.observeAfter,
	}
	for variable, value := range set {
		if err := spec.Variables[variable].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", variable, err)
		}
	}
	if f.features&uint32(limiterFeatureFEATURE_CHALLENGE|limiterFeatureFEATURE_PROBE) == 0 {
		leaveOutKernelTypes(spec)
	}
	return spec, nil
}

// withOnly is a copy of an object, to be changed at will, with one program of those in it.
func withOnly(object *ebpf.CollectionSpec, program string) *ebpf.CollectionSpec {
	only := *object
	only.Programs = map[string]*ebpf.ProgramSpec{program: object.Programs[program]}
	return only.Copy()
}

// leaveOutKernelTypes makes programs that never read the kernel's own structures load on kernels that do not describe
// theirs (no BTF). Without its relocation such an instruction is wrong, and it is dead.
func leaveOutKernelTypes(spec *ebpf.CollectionSpec) {
	for _, prog := range spec.Programs {
		for n := range prog.Instructions {
			ins := &prog.Instructions[n]
			if btf.CORERelocationMetadata(ins) != nil && ins.Symbol() == "" && ins.Reference() == "" {
				ins.Metadata = asm.Metadata{}
			}
		}
	}
}

// loadError keeps the verifier's last words and drops the pages before them.
func loadError(err error) error {
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return fmt.Errorf("load program: the kernel's verifier refused it: %w", verifier)
	}
	return fmt.Errorf("load program: %w", err)
}
