// SPDX-License-Identifier: Apache-2.0

package datapath

import "errors"

// What a caller may branch on. The text of the error that wraps one says the way out.
var (
	// ErrNotAttached: no interface is attached, so there is no state to read or change.
	ErrNotAttached = errors.New("synward is not attached to any interface")
	// ErrRefused: going on would harm what is not ours.
	ErrRefused = errors.New("refused")
	// ErrInvalid: what was asked for does not exist or makes no sense.
	ErrInvalid = errors.New("invalid")
	// ErrUnsupported: this kernel or interface cannot do it.
	ErrUnsupported = errors.New("not supported here")
	// ErrFull: the list holds as many entries as it was sized for.
	ErrFull = errors.New("full")
)
