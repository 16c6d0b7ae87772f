// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/synward/synward/pkg/policy"
)

// attacher carries one attach through its steps.
type attacher struct {
	*Instance
	opts    AttachOptions
	nl      netlink.Link
	cookie  uint64
	created bool
	result  AttachResult
}

// Attach puts the limiter on an interface of the caller's network namespace. What is so already is
// success. Errors: ErrInvalid (no such interface or mode), ErrRefused (another program is there),
// ErrUnsupported (no mode works). An error leaves everything as it was.
func Attach(opts AttachOptions) (*AttachResult, error) {
	if err := requirePrivilege(); err != nil {
		return nil, err
	}
	dir := pinDir(opts.PinDir)
	nl, cookie, err := checkAttach(dir, opts)
	if err != nil {
		return nil, err
	}
	l, err := takeLock(dir, true)
	if err != nil {
		return nil, err
	}
	i, created, err := openOrCreate(dir, l)
	if err != nil {
		l.release()
		return nil, err
	}
	a := &attacher{Instance: i, opts: opts, nl: nl, cookie: cookie, created: created}
	if err := errors.Join(a.fill(), a.beginOther()); err != nil {
		return nil, errors.Join(err, a.undo())
	}
	i.KeepWith(opts.Keeper)
	if err := a.run(); err != nil {
		return nil, errors.Join(err, a.undo())
	}
	return &a.result, i.Close()
}

// fill brings back what was kept, where nothing is attached.
func (a *attacher) fill() error {
	there, err := a.dir.attachments()
	if err != nil || len(there) > 0 || a.opts.Keeper == nil {
		return err
	}
	return a.opts.Keeper.Fill(a.Instance, a.opts.Policy != nil || a.opts.Limit != nil)
}

// undo leaves no instance behind that was not there before.
func (a *attacher) undo() error {
	if !a.created {
		return a.Close()
	}
	a.KeepWith(nil)
	return errors.Join(a.Close(), a.dir.remove())
}

// checkAttach finds everything that can be found wrong before anything is touched.
func checkAttach(dir pinDir, opts AttachOptions) (netlink.Link, uint64, error) {
	switch opts.Mode {
	case ModeAuto, ModeNative, ModeGeneric, ModeTC:
	default:
		return nil, 0, fail(ErrInvalid, "mode %q: use auto, native, generic or tc", opts.Mode)
	}
	if opts.Limit != nil {
		if err := opts.Limit.Validate(); err != nil {
			return nil, 0, err
		}
	}
	nl, err := netlink.LinkByName(opts.Interface)
	if err != nil {
		return nil, 0, fail(errors.Join(ErrInvalid, ErrNoInterface), "interface %s: %v; `ip link` lists them", opts.Interface, err)
	}
	if err := dir.checkFS(); err != nil {
		return nil, 0, err
	}
	if err := RequireFeatures(); err != nil {
		return nil, 0, err
	}
	cookie, err := netnsCookie()
	return nl, cookie, err
}

func (a *attacher) run() error {
	stop, err := a.reuse()
	if err != nil || stop {
		return err
	}
	a.result.Warnings = preflight(a.nl, a.opts.Mode)
	old, err := a.PolicyInForce()
	if err != nil {
		return err
	}
	changed, err := a.applyPolicy(old)
	if err != nil {
		return err
	}
	if left, err := a.placeBans(); err != nil {
		return err
	} else if left > 0 {
		a.result.Warnings = append(a.result.Warnings, fmt.Sprintf("%d saved bans were from services alone that the policy does not have: they are lifted", left))
	}
	if err := a.tryModes(); err != nil {
		if changed && !a.created {
			return errors.Join(err, a.undoPolicy(old))
		}
		return err
	}
	if err := a.describe(); err != nil {
		return err
	}
	if a.featuresNeeded()&uint32(limiterFeatureFEATURE_RESET) != 0 {
		a.result.Warnings = append(a.result.Warnings, answerWarnings(a.nl, a.result.Interface.Mode)...)
	}
	return nil
}

// applyPolicy puts in force what was asked for beside the interface, if that is a change. Other interfaces are
// judged by it too, so it waits for the same confirmation.
func (a *attacher) applyPolicy(old *policy.Policy) (changed bool, err error) {
	next := old
	if a.opts.Policy != nil {
		next = a.opts.Policy
	}
	if a.opts.Limit != nil || a.opts.Concurrent != nil {
		if next, err = policy.WithLimit(next, DefaultService, a.opts.change()); err != nil {
			return false, err
		}
	}
	if next.Equal(old) {
		return false, nil
	}
	err = a.Apply(ApplyOptions{Policy: next, Confirm: a.opts.Confirm, By: a.opts.By})
	if errors.Is(err, ErrUnsettled) {
		a.result.Warnings = append(a.result.Warnings, err.Error())
		err = nil
	}
	return err == nil, err
}

// change is what the options want of the limits of DefaultService.
func (o AttachOptions) change() policy.LimitChange {
	change := policy.LimitChange{Concurrent: o.Concurrent}
	if o.Limit != nil {
		change.New, change.Burst = &o.Limit.Rate, &o.Limit.Burst
	}
	return change
}

// undoPolicy puts the policy back that was in force before applyPolicy.
func (a *attacher) undoPolicy(old *policy.Policy) error {
	if a.opts.Confirm > 0 && !a.live().pending(monotonicNow()) {
		return a.settle() // its time is over, and the old policy is back
	}
	if a.opts.Confirm > 0 {
		_, err := a.Rollback(1, a.opts.By)
		return err
	}
	return a.Apply(ApplyOptions{Policy: old, By: a.opts.By})
}

// reuse deals with what is attached here already: stop when nothing is left to do. What is recorded of
// an interface that is gone, or whose hook no longer holds our program, is cleared away; a live one is
// never touched, whatever name it had when it was attached.
func (a *attacher) reuse() (stop bool, err error) {
	all, err := a.attached()
	if err != nil {
		return false, err
	}
	index := a.nl.Attrs().Index
	for _, at := range all {
		if at.key.cookie != a.cookie {
			continue
		}
		device := at.device()
		if at.key.ifindex == index && at.inspect(device).live {
			return true, a.keepMode(at)
		}
		if at.key.ifindex == index || device == nil && at.record.name() == a.nl.Attrs().Name {
			if err := a.drop(at); err != nil {
				return false, err
			}
			a.result.Mended = true
		}
	}
	return false, nil
}

func (a *attacher) keepMode(at attachment) error {
	mode := modeFromCode(at.record.Hook)
	if a.opts.Mode != ModeAuto && a.opts.Mode != mode {
		return fail(ErrInvalid, "%s is attached in mode %s; to change that: synward detach %s",
			a.opts.Interface, mode, a.opts.Interface)
	}
	return a.keep(at)
}

// keep is the second attach of the same: only a policy that differs is a change.
func (a *attacher) keep(at attachment) error {
	old, err := a.PolicyInForce()
	if err != nil {
		return err
	}
	changed, err := a.applyPolicy(old)
	if err != nil {
		return err
	}
	if left, err := a.placeBans(); err != nil {
		return err
	} else if left > 0 {
		a.result.Warnings = append(a.result.Warnings, fmt.Sprintf("%d saved bans were from services alone that the policy does not have: they are lifted", left))
	}
	if err := a.mendEgress(at.key); err != nil {
		return err
	}
	a.result.Unchanged = !changed && !a.result.Mended
	return a.describe()
}

// candidates are the modes to try, best first. An interface without link headers goes straight to
// TC: XDP would see its bare IP header as an Ethernet header.
func (a *attacher) candidates() ([]Mode, error) {
	if a.opts.Mode != ModeAuto {
		if a.opts.Mode != ModeTC && !hasLinkHeader(a.nl) {
			return nil, fail(ErrInvalid, "%s has no link header, which XDP needs; use --mode tc", a.opts.Interface)
		}
		return []Mode{a.opts.Mode}, nil
	}
	if !hasLinkHeader(a.nl) {
		return []Mode{ModeTC}, nil
	}
	return []Mode{ModeNative, ModeTC, ModeGeneric}, nil
}

func (a *attacher) tryModes() error {
	modes, err := a.candidates()
	if err != nil {
		return err
	}
	for _, mode := range modes {
		ours, err := a.programIDs()
		if err != nil {
			return err
		}
		if mode == ModeTC {
			err = foreignFilter(a.nl, hookClsact, ours)
		} else {
			err = foreignXDP(a.nl, ours)
		}
		if err != nil {
			return err
		}
		for _, h := range mode.hooks() {
			err := a.tryHook(mode, h)
			if err == nil {
				return nil
			}
			if !unsupported(err) {
				return fmt.Errorf("attach %s (%s): %w", a.opts.Interface, mode, err)
			}
			a.result.Refused = append(a.result.Refused, Attempt{mode, err})
		}
	}
	last := a.result.Refused[len(a.result.Refused)-1]
	return fail(ErrUnsupported, "attach %s (%s): %w", a.opts.Interface, last.Mode, last.Err)
}

// unsupported tells an interface that cannot from an attempt that failed.
func unsupported(err error) bool {
	return errors.Is(err, ErrUnsupported) || errors.Is(err, ebpf.ErrNotSupported) ||
		errors.Is(err, errNotSupported) || errors.Is(err, errInvalidArgument) || errors.Is(err, errOutOfRange)
}

// tryHook attaches by one hook. The order makes a kill harmless: the record and the program's pin
// mean nothing without the link's pin, and an unpinned link ends with this process. Worst case, by
// clsact: a filter that enforces and is shown as such.
func (a *attacher) tryHook(mode Mode, h hook) error {
	key := pinKey{a.cookie, a.nl.Attrs().Index, h}
	slot, err := a.freeSlot()
	if err != nil {
		return err
	}
	f := frozen{slot: slot, linkHeader: hasLinkHeader(a.nl), silent: losesTags(a.nl, mode), features: a.featuresNeeded()}
	if a.opts.Confirm > 0 {
		f.observeAfter = deadline(a.opts.Confirm)
	}
	prog, err := a.maps.loadProgram(h, f)
	if err != nil {
		return err
	}
	defer prog.Close()
	if err := a.writeRecord(f, key, mode); err != nil {
		return err
	}
	if err := prog.Pin(a.dir.prog(key)); err != nil {
		return fmt.Errorf("pin program: %w", err)
	}
	if err := a.raise(slot, key, mode, a.nl, prog); err != nil {
		return errors.Join(err, a.clearRecord(slot))
	}
	at, err := a.attachedAs(key)
	if err == nil {
		if err = a.addEgress(at, f.features); err != nil {
			err = errors.Join(err, a.drop(at))
		}
	}
	return err
}

// describe fills in the interface as status would show it.
func (a *attacher) describe() error {
	all, err := a.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.Name == a.opts.Interface && i.Netns == "" {
			a.result.Interface = i
		}
	}
	return nil
}

// writeRecord notes what the slot's counters stood at, so that traffic is measured from here on.
func (a *attacher) writeRecord(f frozen, key pinKey, mode Mode) error {
	if err := a.clearOrphans(); err != nil {
		return err
	}
	judged, err := a.judged(f.slot)
	if err != nil {
		return err
	}
	record := limiterInterface{
		NetnsCookie: key.cookie, Ifindex: uint32(key.ifindex), Hook: mode.code(),
		AttachedAt:     uint64(time.Now().Unix()),
		ReceivedBefore: receivedPackets(a.nl),
		JudgedBefore:   judged,
		Features:       f.features &^ uint32(limiterFeatureFEATURE_BYTES_OUT), // until the second hook is there
		ObserveAfter:   f.observeAfter,
	}
	if f.linkHeader {
		record.Flags |= uint32(limiterInterfaceFlagINTERFACE_LINK_HEADER)
	}
	if f.silent {
		record.Flags |= uint32(limiterInterfaceFlagINTERFACE_SILENT)
	}
	copy(record.Name[:len(record.Name)-1], a.nl.Attrs().Name)
	if err := a.maps.Interfaces.Put(f.slot, record); err != nil {
		return fmt.Errorf("write interface record: %w", err)
	}
	return nil
}

func (a *attacher) clearRecord(slot uint32) error {
	return a.maps.Interfaces.Put(slot, limiterInterface{})
}
