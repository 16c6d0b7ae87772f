// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
)

// ErrInvalid is wrapped by every error of this package: what was typed makes no sense. The text is
// one line that says the way out.
var ErrInvalid = errors.New("invalid")

// invalid makes an error that reads "invalid WHAT: why, and the way out".
func invalid(what, format string, args ...any) error {
	return fmt.Errorf("%w %s: %s", ErrInvalid, what, fmt.Sprintf(format, args...))
}
