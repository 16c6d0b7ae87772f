// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
)

// Instance is an opened pin directory: the maps, and the lock for as long as it is open.
type Instance struct {
	dir  pinDir
	lock *lock
	maps *mapSet
}

// Open opens an instance for reading, beside other readers. ErrNotAttached if there is none.
func Open(dir string) (*Instance, error) { return open(pinDir(dir), false) }

// OpenForChange opens an instance for a change and waits until nobody else is at work on it.
func OpenForChange(dir string) (*Instance, error) { return open(pinDir(dir), true) }

func open(dir pinDir, exclusive bool) (*Instance, error) {
	if err := requirePrivilege(); err != nil {
		return nil, err
	}
	l, err := takeLock(dir, exclusive)
	if err != nil {
		return nil, err
	}
	i, err := openLocked(dir, l)
	if err != nil {
		l.release()
		return nil, err
	}
	if exclusive {
		if err := i.sweepMeters(); err != nil {
			return nil, errors.Join(err, i.Close())
		}
	}
	return i, nil
}

// openLocked opens what is pinned. Maps that no attachment uses are what a killed command left:
// there is no instance then.
func openLocked(dir pinDir, l *lock) (*Instance, error) {
	there, err := dir.exists()
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, fmt.Errorf("%w; try: synward attach IFACE --new 50/s", ErrNotAttached)
	}
	keys, err := dir.attachments()
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w; try: synward attach IFACE --new 50/s", ErrNotAttached)
	}
	m, err := openMaps(dir)
	if err != nil {
		return nil, err
	}
	return &Instance{dir: dir, lock: l, maps: m}, nil
}

// openOrCreate is for attach. Maps that no attachment uses, as a killed detach or a failed attach
// leaves them, are taken up again with all that is in them, if they are whole; else a new instance is
// made, whole or not at all.
func openOrCreate(dir pinDir, l *lock) (i *Instance, created bool, err error) {
	i, err = openLocked(dir, l)
	if err == nil {
		return i, false, errors.Join(dir.sweep(), i.sweepMeters())
	}
	if !errors.Is(err, ErrNotAttached) {
		return nil, false, err
	}
	if there, err := dir.exists(); err != nil {
		return nil, false, err
	} else if there {
		if m, err := openMaps(dir); err == nil {
			return &Instance{dir: dir, lock: l, maps: m}, false, dir.sweep()
		}
	}
	if err := dir.removeLeftovers(); err != nil {
		return nil, false, err
	}
	m, err := createMaps()
	if err != nil {
		return nil, false, err
	}
	i = &Instance{dir: dir, lock: l, maps: m}
	if err := i.place(); err != nil {
		m.close()
		return nil, false, err
	}
	return i, true, nil
}

// place pins the maps beside their place and moves them there in one step.
func (i *Instance) place() error {
	if err := i.writeFirstPolicy(); err != nil {
		return err
	}
	staging := i.dir.newStaging()
	if err := staging.make(); err != nil {
		return err
	}
	if err := i.maps.pin(staging); err != nil {
		return errors.Join(err, staging.remove())
	}
	if err := os.Rename(string(staging), string(i.dir)); err != nil {
		return errors.Join(fmt.Errorf("move pins into place: %w", err), staging.remove())
	}
	return nil
}

// Close releases the lock and the maps. The kernel keeps enforcing. It may be called again.
func (i *Instance) Close() error {
	if i.lock == nil {
		return nil
	}
	i.maps.close()
	i.lock.release()
	i.lock = nil
	return nil
}

// requirePrivilege wants root: pins, links and netlink all do.
func requirePrivilege() error {
	if os.Geteuid() != 0 {
		return errors.New("must be run as root (try sudo)")
	}
	return nil
}
