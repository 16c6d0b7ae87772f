// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxText is the longest policy file that is read, in bytes: a million prefixes written in place.
const maxText = 32 << 20

// source is the text of a policy file, which errors point into.
type source struct {
	name string
	text string
}

// newSource takes a text that a YAML parser can be trusted with: UTF-8 without control characters,
// indented by spaces. A byte order mark and the carriage returns of line ends are taken out.
func newSource(name string, text []byte) (*source, error) {
	s := &source{name: name, text: strings.TrimPrefix(string(text), "\ufeff")}
	s.text = strings.ReplaceAll(s.text, "\r\n", "\n")
	if len(text) > maxText {
		return nil, s.errorAt(1, 1, "the file is longer than %d MiB; put long lists in files of their own, as in {file: PATH}",
			maxText>>20)
	}
	line := 0
	for text := range strings.Lines(s.text) {
		line++
		if err := s.checkLine(line, strings.TrimSuffix(text, "\n")); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *source) checkLine(line int, text string) error {
	content := strings.TrimLeft(text, " ")
	if strings.HasPrefix(content, "\t") && strings.TrimSpace(content) != "" {
		return s.errorAt(line, len(text)-len(content)+1, "the line is indented with a tab; YAML takes spaces only")
	}
	column := 0
	for i, r := range text {
		column++
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(text[i:]); size == 1 {
				return s.errorAt(line, column, "the file is not UTF-8; save it as UTF-8")
			}
		}
		if r < ' ' && r != '\t' || r == 0x7f || r == '\u0085' || r == '\u2028' || r == '\u2029' || r == '\ufeff' {
			return s.errorAt(line, column, "the control character %q is not allowed; take it out", r)
		}
	}
	return nil
}

// errorAt makes an error for a place, which is moved to the nearest one inside the text.
func (s *source) errorAt(line, column int, format string, args ...any) *Error {
	lines := strings.Split(strings.TrimSuffix(s.text, "\n"), "\n")
	line = min(max(line, 1), len(lines))
	text := lines[line-1]
	column = min(max(column, 1), utf8.RuneCountInString(text)+1)
	return &Error{Name: s.name, Line: line, Column: column, Text: text, Message: oneLine(fmt.Sprintf(format, args...))}
}
