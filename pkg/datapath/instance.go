// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"

	"github.com/synward/synward/pkg/policy"
)

// Instance is an opened pin directory: the maps, and the lock for as long as it is open.
type Instance struct {
	dir  pinDir
	lock *lock
	maps *mapSet
	*memory
	// waited: a policy waited for its confirmation when the instance was opened.
	waited bool
	log    changeLog
	// unplaced are bans that were loaded, of services that the policy in force does not have.
	unplaced []Entry
}

// newInstance takes over the maps: they are closed with it, and here if it fails.
func newInstance(dir pinDir, l *lock, m *mapSet) (*Instance, error) {
	memory, err := m.mapMemory()
	if err != nil {
		m.close()
		return nil, err
	}
	i := &Instance{dir: dir, lock: l, maps: m, memory: memory, waited: memory.live().pending(monotonicNow())}
	mark, err := i.mark()
	if err != nil {
		i.release()
		return nil, err
	}
	i.log.opened = changeOf(mark)
	return i, nil
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
	if exclusive {
		_, err = dir.finishUpgrade()
	}
	var i *Instance
	if err == nil {
		i, err = openLocked(dir, l)
	}
	if err != nil {
		l.release()
		return nil, err
	}
	if exclusive {
		if err := i.tidy(); err != nil {
			return nil, errors.Join(err, i.Close())
		}
	}
	return i, nil
}

// tidy does what every change begins with: what a killed command left is finished, a policy whose time is
// over is left behind, idle slots of the meters are pulled along, and bans of long ago are forgotten.
func (i *Instance) tidy() error {
	if err := i.repairPrograms(); err != nil {
		return err
	}
	if err := i.leaveBehind(); err != nil {
		return err
	}
	if err := i.settleConns(); err != nil {
		return err
	}
	if err := i.clearHalfFeeds(); err != nil {
		return err
	}
	i.protectLater()
	if err := i.sweepBans(); err != nil {
		return err
	}
	return i.sweepMeters()
}

// openLocked opens what is pinned. Maps that no attachment uses are what a killed command left:
// there is no instance then.
func openLocked(dir pinDir, l *lock) (*Instance, error) {
	there, err := dir.exists()
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, errNotAttached()
	}
	keys, err := dir.attachments()
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errNotAttached()
	}
	if unfinished, err := dir.unfinished(); err != nil || unfinished != "" {
		return nil, errors.Join(err, errors.New("an upgrade was killed before its end, limits are in force; to finish it: synward upgrade"))
	}
	m, err := openMaps(dir)
	if err != nil {
		return nil, err
	}
	return newInstance(dir, l, m)
}

// openOrCreate is for attach. Maps that no attachment uses, as a killed detach or a failed attach
// leaves them, are taken up again with all that is in them, if they are whole; else a new instance is
// made, whole or not at all.
func openOrCreate(dir pinDir, l *lock) (i *Instance, created bool, err error) {
	if _, err := dir.finishUpgrade(); err != nil {
		return nil, false, err
	}
	i, err = openLocked(dir, l)
	if err == nil {
		return i, false, errors.Join(dir.sweep(), i.tidy())
	}
	if !errors.Is(err, ErrNotAttached) {
		return nil, false, err
	}
	if there, err := dir.exists(); err != nil {
		return nil, false, err
	} else if there {
		m, err := openMaps(dir)
		if errors.Is(err, ErrOtherABI) {
			return nil, false, err
		}
		if err == nil {
			if err := dir.sweep(); err != nil {
				m.close()
				return nil, false, err
			}
			i, err := newInstance(dir, l, m)
			return i, false, err
		}
	}
	if err := dir.removeLeftovers(); err != nil {
		return nil, false, err
	}
	m, err := createMaps()
	if err != nil {
		return nil, false, err
	}
	i, err = newInstance(dir, l, m)
	if err != nil {
		return nil, false, err
	}
	if err := i.place(); err != nil {
		i.release()
		return nil, false, err
	}
	return i, true, nil
}

// place pins the maps beside their place and moves them there in one step.
func (i *Instance) place() error {
	if err := i.begin(); err != nil {
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

// begin makes generation 1 of a new instance: connections are counted, none is limited.
func (i *Instance) begin() error {
	if err := i.beginMaps(); err != nil {
		return err
	}
	return i.Apply(ApplyOptions{Policy: policy.Default(nil), By: originOperator})
}

// beginMaps draws the secrets of the hashes, and finds the clock.
func (i *Instance) beginMaps() error {
	hash, quic, mark := &i.control.Hash, limiterQuicSecret{}, limiterChangeMark{}
	words := []*uint64{&hash[0], &hash[1], &hash[2], &mark.Instance}
	for n := range quic.Key {
		words = append(words, &quic.Key[n])
	}
	if err := freshWords(words); err != nil {
		return err
	}
	// A multiplier must be odd to be reversible.
	for n := range hash {
		hash[n] |= 1
	}
	for n := limiterQuicKeyWordQUIC_KEY_ODD1; n < limiterQuicKeyWordQUIC_KEYS; n++ {
		quic.Key[n] |= 1
	}
	if err := i.maps.QuicSecrets.Put(uint32(0), quic); err != nil {
		return fmt.Errorf("write secrets: %w", err)
	}
	if err := i.putMark(mark); err != nil {
		return err
	}
	i.log.opened = changeOf(mark)
	offset, ok, err := measureJiffies(clockTick())
	if err != nil {
		return err
	}
	if ok {
		i.control.TickNs, i.control.JiffiesNs = uint64(clockTick()), offset
	}
	return nil
}

func errNotAttached() error {
	return fmt.Errorf("%w; try: synward attach IFACE --new 50/s", ErrNotAttached)
}

// Close tells the keeper what was changed, and releases the lock and the maps. The kernel keeps enforcing. It
// may be called again. ErrUnkept: the keeper failed.
func (i *Instance) Close() error {
	if i.lock == nil {
		return nil
	}
	err := i.tellKeeper()
	i.release()
	i.lock.release()
	i.lock = nil
	return err
}

// release lets go of the maps and of the memory that they are mapped to.
func (i *Instance) release() {
	if i.memory != nil {
		i.memory.close()
	}
	i.maps.close()
}

// requirePrivilege wants root: pins, links and netlink all do.
func requirePrivilege() error {
	if os.Geteuid() != 0 {
		return errors.New("must be run as root (try sudo)")
	}
	return nil
}
