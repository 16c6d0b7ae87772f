// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// ErrInvalid is wrapped by every error of this package: what was typed makes no sense. The text says
// the way out, in one line but for an Error, which shows the line of the file too.
var ErrInvalid = errors.New("invalid")

// invalid makes an error that reads "invalid WHAT: why, and the way out".
func invalid(what, format string, args ...any) error {
	return fmt.Errorf("%w %s: %s", ErrInvalid, what, fmt.Sprintf(format, args...))
}

// Error is what is wrong in a policy file, and where. It wraps ErrInvalid, and what the file reader
// returned if a list could not be read.
type Error struct {
	// Name is the file as Parse was told it.
	Name string
	// Line and Column count from 1; a column is one character. The column behind the last one of a
	// line is its end.
	Line, Column int
	// Message says what is wrong and the way out, in one line.
	Message string
	// Text is the whole line of the file, without its end.
	Text string

	cause error
}

// Error is Short, the line of the file, and a caret under the column. A long line is cut.
func (e *Error) Error() string {
	line, before := excerpt([]rune(e.Text), e.Column-1)
	return e.Short() + "\n" + line + "\n" + caretIndent(before) + "^"
}

// Short is one line: NAME:LINE:COLUMN: MESSAGE.
func (e *Error) Short() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.Name, e.Line, e.Column, e.Message)
}

// Unwrap returns ErrInvalid and the cause.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{ErrInvalid}
	}
	return []error{ErrInvalid, e.cause}
}

// excerpt returns what is shown of a line, at most 120 characters around the column at, and the
// part of it before the column. What a terminal might take as a command is replaced.
func excerpt(line []rune, at int) (shown, before string) {
	const width, lead = 120, 60
	at = min(max(at, 0), len(line))
	from, to := 0, len(line)
	prefix, suffix := "", ""
	if from < at-lead && to > width {
		from, prefix = at-lead, "..."
	}
	if to > from+width {
		to, suffix = from+width, "..."
	}
	return prefix + printable(line[from:to]) + suffix, prefix + printable(line[from:at])
}

func printable(line []rune) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, string(line))
}

// caretIndent is blank and as wide as s, with its tabs.
func caretIndent(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, s)
}

// oneLine keeps what was typed, or the message of others, from breaking ours or filling a screen.
func oneLine(s string) string {
	const most, head, tail = 600, 300, 200
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:head]) + "..." + string(runes[len(runes)-tail:])
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
