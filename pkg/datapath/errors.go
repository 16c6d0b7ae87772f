// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
)

// What a caller may branch on. The text of the error that wraps one says the way out.
var (
	// ErrNotAttached: no interface is attached, so there is no state to read or change.
	ErrNotAttached = errors.New("not attached to any interface")
	// ErrRefused: going on would harm what is not ours.
	ErrRefused = errors.New("refused")
	// ErrInvalid: what was asked for does not exist or makes no sense.
	ErrInvalid = errors.New("invalid")
	// ErrNoInterface: there is no interface of that name.
	ErrNoInterface = errors.New("no such interface")
	// ErrUnsupported: this kernel or interface cannot do it.
	ErrUnsupported = errors.New("not supported here")
	// ErrUnsettled: the change is in force, and what has to be done behind it is not all done; the next
	// change does the rest.
	ErrUnsettled = errors.New("not settled")
	// ErrUnkept: the change is in force, and was not saved: a reboot would lose it.
	ErrUnkept = errors.New("not saved")
	// ErrOtherABI: another version of synward made the maps; Upgrade carries them over.
	ErrOtherABI = errors.New("another version")
	// ErrFull: the list holds as many entries as it was sized for.
	ErrFull = errors.New("full")
)

// fault is an error of a kind that callers branch on. Its text speaks for itself, so the kind is not
// part of it.
type fault struct {
	kind error
	text error
}

func (f fault) Error() string   { return f.text.Error() }
func (f fault) Unwrap() []error { return []error{f.kind, f.text} }

// fail makes an error of a kind, with the text of fmt.Errorf.
func fail(kind error, format string, args ...any) error {
	return fault{kind, fmt.Errorf(format, args...)}
}
