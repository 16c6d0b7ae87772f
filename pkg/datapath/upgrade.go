// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Upgraded says what an upgrade did.
type Upgraded struct {
	// From and To are versions of the maps. They differ where all was carried over into new ones.
	From, To uint32
	// Finished: an upgrade that was killed has been finished first.
	Finished bool
	// Interfaces are all attachments, sorted by the names of their pins.
	Interfaces []UpgradedInterface
}

// UpgradedInterface is one attachment of an instance that was upgraded.
type UpgradedInterface struct {
	Name string
	// Swapped: it runs another program than before.
	Swapped bool
	// Why says what is wrong with it where nothing could be swapped.
	Why string
}

// Upgrade gives every attachment of an instance the programs of this version, without a gap. Where another version
// made the maps, all that they hold is carried over first; levels begin afresh then, which is one extra burst
// for each source. It also finishes an upgrade that was killed. Errors: ErrNotAttached, ErrRefused (what cannot be
// carried over; nothing was touched). After any other error, or a kill, limits are in force, and another Upgrade
// goes on from there.
func Upgrade(dir string) (*Upgraded, error) {
	if err := requirePrivilege(); err != nil {
		return nil, err
	}
	if err := RequireFeatures(); err != nil {
		return nil, err
	}
	d := pinDir(dir)
	l, err := takeLock(d, true)
	if err != nil {
		return nil, err
	}
	defer l.release()
	there, err := d.exists()
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, errNotAttached()
	}
	finished, err := d.finishUpgrade()
	if err != nil {
		return nil, err
	}
	abi, err := readABI(d)
	if err != nil {
		return nil, err
	}
	out := &Upgraded{From: abi, To: uint32(limiterAbiABI_VERSION), Finished: finished}
	if abi == out.To {
		err = d.upgradePrograms(l, out)
	} else {
		err = d.upgradeMaps(out)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// upgradePrograms swaps programs on the maps that are there.
func (d pinDir) upgradePrograms(l *lock, out *Upgraded) error {
	i, err := openLocked(d, l)
	if err != nil {
		return err
	}
	defer i.release()
	if err := d.keepLayout(); err != nil {
		return err
	}
	if err := i.tidy(); err != nil {
		return err
	}
	all, err := i.attached()
	if err != nil {
		return err
	}
	var errs []error
	for _, at := range all {
		one := UpgradedInterface{Name: at.record.name()}
		for _, hook := range at.hooks() {
			if err := i.upgradeProgram(hook, &one); err != nil {
				errs = append(errs, fmt.Errorf("interface %s: %w", one.Name, err))
			}
		}
		out.Interfaces = append(out.Interfaces, one)
	}
	return errors.Join(append(errs, i.upgradeConns())...)
}

// upgradeProgram swaps the program of one hook, unless it is the same already.
func (i *Instance) upgradeProgram(at attachment, out *UpgradedInterface) error {
	running, err := at.hookProgram()
	if errors.Is(err, errNetnsGone) {
		out.Why = err.Error()
		return nil
	}
	if err != nil {
		return err
	}
	if ours, err := at.isOurs(running); err != nil || !ours {
		out.Why = whyNotOurs
		return err
	}
	f := at.record.frozen()
	f.slot, f.features, f.observeAfter = at.slot, at.record.Features, at.record.ObserveAfter
	prog, err := i.maps.loadProgram(at.key.hook, f)
	if err != nil {
		return err
	}
	defer prog.Close()
	same, err := sameCode(prog, i.dir.prog(at.key))
	if err != nil || same {
		return err
	}
	out.Swapped = true
	return i.swapLoaded(at, prog)
}

// sameCode compares by the tag that the kernel makes of a program's instructions.
func sameCode(prog *ebpf.Program, pin string) (bool, error) {
	old, err := ebpf.LoadPinnedProgram(pin, nil)
	if err != nil {
		return false, fmt.Errorf("open program: %w", err)
	}
	defer old.Close()
	return sameTag(old, prog)
}

func sameTag(one, other *ebpf.Program) (bool, error) {
	a, err := one.Info()
	if err != nil {
		return false, fmt.Errorf("read program: %w", err)
	}
	b, err := other.Info()
	if err != nil {
		return false, fmt.Errorf("read program: %w", err)
	}
	return a.Tag == b.Tag, nil
}

// pinFrom begins the name of a pin that stands in a new directory until all is carried over: the rest of it is
// the end of the name of the directory that the old maps are in.
const pinFrom = "from-"

// upgradeMaps builds a whole new instance beside the one in force and fills it. Then the two directories change
// their places in one step, which is the commit; finishUpgrade does the rest.
func (d pinDir) upgradeMaps(out *Upgraded) error {
	p, err := openPinned(d)
	if err != nil {
		return err
	}
	defer p.close()
	from, err := readSource(p)
	if err != nil {
		return err
	}
	suffix := newSuffix()
	staging := d + stagingMark + pinDir(suffix)
	if err := from.build(staging, suffix); err != nil {
		return errors.Join(p.refuse(err), staging.remove())
	}
	err = unix.Renameat2(unix.AT_FDCWD, string(staging), unix.AT_FDCWD, string(d), unix.RENAME_EXCHANGE)
	if err != nil {
		return errors.Join(p.refuse(fmt.Errorf("move pins into place: %w", err)), staging.remove())
	}
	if _, err := d.finishUpgrade(); err != nil {
		return err
	}
	for _, at := range from.all {
		at.dir = d
		out.Interfaces = append(out.Interfaces, at.upgraded())
	}
	return nil
}

// upgraded says whether an attachment's hook runs what is pinned for it now.
func (at attachment) upgraded() UpgradedInterface {
	out := UpgradedInterface{Name: at.record.name()}
	for _, hook := range at.hooks() {
		running, err := hook.hookProgram()
		ours := false
		if err == nil {
			ours, err = hook.isOurs(running)
		}
		switch {
		case err != nil:
			out.Why = err.Error()
		case !ours:
			out.Why = whyNotOurs
		default:
			out.Swapped = true
		}
	}
	return out
}

const whyNotOurs = "its hook does not hold our program; attach it again"

// build makes and pins the new instance. Nothing that it does has a meaning before the commit.
func (s *source) build(staging pinDir, suffix string) error {
	m, err := createMaps()
	if err != nil {
		return err
	}
	i, err := newInstance(staging, nil, m)
	if err != nil {
		return err
	}
	defer i.release()
	if err := i.beginMaps(); err != nil {
		return err
	}
	h := &heir{Instance: i, from: s}
	if err := h.fill(); err != nil {
		return err
	}
	if err := errors.Join(tryMoves(s.pinnedMaps, h.unpinned()), h.tryConns()); err != nil {
		return err
	}
	programs, err := h.programs()
	if err != nil {
		return err
	}
	defer closePrograms(programs)
	if err := staging.make(); err != nil {
		return err
	}
	if err := h.pin(programs); err != nil {
		return err
	}
	// The same map under another name.
	if err := os.Link(filepath.Join(staging.maps(), limiterMapMeta), filepath.Join(staging.maps(), pinFrom+suffix)); err != nil {
		return fmt.Errorf("pin maps: %w", err)
	}
	return nil
}

// pin pins the maps, the programs, and the links once more, which still run the old programs.
func (h *heir) pin(programs map[pinKey]*ebpf.Program) error {
	if err := h.maps.pin(h.dir); err != nil {
		return err
	}
	for key, prog := range programs {
		if err := prog.Pin(h.dir.prog(key)); err != nil {
			return fmt.Errorf("pin program: %w", err)
		}
		if key.hook.filter() {
			continue
		}
		if err := os.Link(h.from.dir.link(key), h.dir.link(key)); err != nil {
			return fmt.Errorf("pin link: %w", err)
		}
	}
	return nil
}
