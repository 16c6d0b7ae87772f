// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// maxConcurrent is how many limits of concurrent connections may count one connection; the last claim is
// the line of the ledger.
const maxConcurrent = int(limiterConnSizeCONN_CLAIMS) - 1

// connMaps are the maps of what is counted of connections.
type connMaps struct {
	Conns         *ebpf.Map
	ConnSockets   *ebpf.Map
	ConnNotes     *ebpf.Map
	ConnTallies   *ebpf.Map
	ConnListening *ebpf.Map
	ConnControls  *ebpf.Map
	Pending       *ebpf.Map
	Waiting       *ebpf.Map
	ServicePlaces *ebpf.Map
	Verified      *ebpf.Map
}

func (m *connMaps) byName() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		limiterMapConns:         &m.Conns,
		limiterMapConnSockets:   &m.ConnSockets,
		limiterMapConnNotes:     &m.ConnNotes,
		limiterMapConnTallies:   &m.ConnTallies,
		limiterMapConnListening: &m.ConnListening,
		limiterMapConnControls:  &m.ConnControls,
		limiterMapPending:       &m.Pending,
		limiterMapWaiting:       &m.Waiting,
		limiterMapServicePlaces: &m.ServicePlaces,
		limiterMapVerified:      &m.Verified,
	}
}

func (l *limiterLimit) concurrent() bool { return l.Kind == uint8(limiterLimitKindLIMIT_CONCURRENT) }

// connHook is one of the places where connections are counted: the name of its pin in links/, the program, and
// who it is among the programs that keep notes.
type connHook struct {
	pin, program string
	runner       limiterConnRunner
}

// connHooks in the order in which they are put in place: nothing is refused before it is counted. Two copies see
// the state changes, for the kernel leaves out a program that interrupts itself.
func connHooks() []connHook {
	return []connHook{
		{"conns-state1", connsProgSynwardState, limiterConnRunnerCONN_STATE1},
		{"conns-state2", connsProgSynwardState, limiterConnRunnerCONN_STATE2},
		{"conns-gate", connsProgSynwardGate, limiterConnRunnerCONN_GATE},
	}
}

func (d pinDir) connLink(h connHook) string { return filepath.Join(d.links(), h.pin) }

// connSettings are the settings that are compiled into a program of connections.
type connSettings struct {
	epoch  uint64
	runner limiterConnRunner
	// slot and prunes are of the seed.
	slot   uint32
	prunes bool
}

// loadConns loads one program of connections on the maps of m.
func (m *mapSet) loadConns(program string, set connSettings) (*ebpf.Program, error) {
	spec, err := connSpec(program, set)
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: m.replacements()})
	if err != nil {
		return nil, loadError(err)
	}
	defer coll.Close()
	return coll.DetachProgram(program), nil
}

// connsObject is the object file, read once a process: nothing in it may be changed.
var connsObject = sync.OnceValues(loadConns)

// connSpec is that program with its settings.
func connSpec(program string, set connSettings) (*ebpf.CollectionSpec, error) {
	shared, err := connsObject()
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	spec := withOnly(shared, program)
	for variable, value := range map[string]any{
		connsVarConnsEpoch: set.epoch, connsVarConnsRunner: uint32(set.runner),
		connsVarSeedSlot: set.slot, connsVarSeedPrunes: set.prunes, connsVarHasLinkHeader: false, connsVarMayAskCoarseClock: program == connsProgSynwardGate,
	} {
		if err := spec.Variables[variable].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", variable, err)
		}
	}
	return spec, nil
}

// hookConns puts a program of connections in its place.
func hookConns(h connHook, prog *ebpf.Program) (link.Link, error) {
	if h.program != connsProgSynwardGate {
		return link.AttachTracing(link.TracingOptions{Program: prog})
	}
	root, err := rootCgroup()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return link.AttachCgroup(link.CgroupOptions{Path: root.path(), Attach: ebpf.AttachCGroupInetIngress, Program: prog})
}

// connTrouble says what keeps connections from being counted, empty if nothing does. What is there by half is what
// a killed command left.
func (i *Instance) connTrouble() string {
	for _, h := range connHooks() {
		l, err := link.LoadPinnedLink(i.dir.connLink(h), nil)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Sprintf("the hook %s is not there", h.pin)
		}
		if err != nil {
			return fmt.Sprintf("open hook %s: %v", h.pin, err)
		}
		info, err := l.Info()
		l.Close()
		if err != nil {
			return fmt.Sprintf("read hook %s: %v", h.pin, err)
		}
		if cgroup := info.Cgroup(); cgroup != nil && cgroup.CgroupId == 0 {
			return fmt.Sprintf("the hook %s was taken off its cgroup", h.pin)
		}
	}
	return ""
}

// attachConns begins to count connections, from zero: what sockets were counted under in an earlier epoch is void.
// Killed in between, the hooks are by half, and the next attachConns begins anew.
func (i *Instance) attachConns() error {
	if i.connTrouble() == "" {
		return nil
	}
	if err := i.detachConns(); err != nil {
		return err
	}
	control, err := i.connControl()
	if err != nil {
		return err
	}
	control.Epoch, control.Seeded = control.Epoch+1, 0
	if err := i.maps.ConnControls.Put(uint32(0), control); err != nil {
		return fmt.Errorf("write epoch of connections: %w", err)
	}
	if err := i.forgetConns(); err != nil {
		return err
	}
	for _, h := range connHooks() {
		if err := i.attachConnHook(h, control.Epoch); err != nil {
			return errors.Join(fmt.Errorf("count connections: %w", err), i.detachConns())
		}
	}
	return nil
}

func (i *Instance) attachConnHook(h connHook, epoch uint64) error {
	prog, err := i.maps.loadConns(h.program, connSettings{epoch: epoch, runner: h.runner})
	if err != nil {
		return err
	}
	defer prog.Close()
	l, err := hookConns(h, prog)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.Pin(i.dir.connLink(h)); err != nil {
		return fmt.Errorf("pin hook of connections: %w", err)
	}
	return nil
}

// detachConns takes the hooks off, the gate first: nothing is refused by counts that no longer move.
func (i *Instance) detachConns() error { return i.dir.detachConns() }

func (d pinDir) detachConns() error {
	for _, h := range slices.Backward(connHooks()) {
		l, err := link.LoadPinnedLink(d.connLink(h), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open hook of connections: %w", err)
		}
		err = l.Unpin()
		// A tracing link ends with its last reference, which this is; a cgroup's can be told to.
		if detachErr := l.Detach(); detachErr != nil && !errors.Is(detachErr, link.ErrNotSupported) {
			err = errors.Join(err, detachErr)
		}
		if err := errors.Join(err, l.Close()); err != nil {
			return fmt.Errorf("remove hook of connections: %w", err)
		}
	}
	return nil
}

func (i *Instance) connControl() (control limiterConnControl, err error) {
	if err := i.maps.ConnControls.Lookup(uint32(0), &control); err != nil {
		return control, fmt.Errorf("read epoch of connections: %w", err)
	}
	return control, nil
}

// forgetConns empties the counts. No hook writes to them.
func (i *Instance) forgetConns() error {
	var key limiterConnKey
	var count uint64
	var keys []limiterConnKey
	iter := i.maps.Conns.Iterate()
	for iter.Next(&key, &count) {
		keys = append(keys, key)
	}
	if err := iter.Err(); err != nil {
		return fmt.Errorf("read counts of connections: %w", err)
	}
	for _, key := range keys {
		if err := i.maps.Conns.Delete(key); err != nil && !isMissing(err) {
			return fmt.Errorf("clear counts of connections: %w", err)
		}
	}
	return i.forgetNotes()
}

// forgetNotes clears what gates have reserved that are gone: the next one would give back places that are not there,
// or that are somebody else's by then.
func (i *Instance) forgetNotes() error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count CPUs: %w", err)
	}
	for runner := range uint32(limiterConnRunnerCONN_RUNNERS) {
		if err := i.maps.ConnNotes.Put(runner, make([]limiterConnNote, cpus)); err != nil {
			return fmt.Errorf("clear notes of connections: %w", err)
		}
	}
	return nil
}

// writePlaces writes where in the policy the service of each id is, for a SYN is remembered with the id.
func (i *Instance) writePlaces(c *compiled, slot uint32) error {
	const ids = uint32(limiterAbiSERVICE_IDS)
	keys, places := make([]uint32, ids), make([]uint32, ids)
	for n := range keys {
		keys[n] = slot*ids + uint32(n)
	}
	for place, s := range c.services {
		places[s.Id%ids] = uint32(place) + 1
	}
	if _, err := i.maps.ServicePlaces.BatchUpdate(keys, places, nil); err != nil {
		return fmt.Errorf("write places of services: %w", err)
	}
	return nil
}
