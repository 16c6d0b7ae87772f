// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// reader turns the nodes of one file into the model.
type reader struct {
	src      *source
	readFile func(path string) ([]byte, error)
	policy   *Policy
	// files are the lists that were read, by path: each is read once, so that it is one state of it.
	files map[string]fileList
}

// field is one key of a mapping: what editors are told of it, and how its value is read into a T. Parser
// and schema both come from tables of fields.
type field[T any] struct {
	name, doc string
	required  bool
	shape     shape
	read      func(r *reader, n *node, to *T) error
}

func (r *reader) errorAt(n *node, format string, args ...any) error {
	return r.src.errorAt(n.line, n.column, format, args...)
}

// errorFrom is an error of a value, at its place.
func (r *reader) errorFrom(n *node, err error) error {
	return r.errorAt(n, "%s: %v", n.label, err)
}

// wrongKind is the error of a value of another kind than is wanted.
func (r *reader) wrongKind(n *node, want string) error {
	return r.errorAt(n, "%s: write %s; this is %s", n.label, want, n.kind)
}

// readFields reads a mapping, in the order of the table.
func readFields[T any](r *reader, n *node, fields []field[T], to *T) error {
	var names []string
	for _, f := range fields {
		names = append(names, f.name)
	}
	if n.kind == nodeText && strings.Contains(n.text, ":") {
		return r.errorAt(n, "%s: write KEY: VALUE, with a space behind the colon", n.label)
	}
	if n.kind != nodeMap {
		return r.wrongKind(n, "a mapping of "+strings.Join(names, ", "))
	}
	known := func(name string) bool {
		for _, f := range fields {
			if f.name == name {
				return true
			}
		}
		return false
	}
	for _, e := range n.entries {
		if !known(e.name) {
			return r.src.errorAt(e.line, e.column, "there is no field %q here%s; the fields are: %s", e.name,
				suggest(e.name, names), strings.Join(names, ", "))
		}
	}
	for _, f := range fields {
		value := n.get(f.name)
		if value == nil && f.required {
			return r.errorAt(n, "%s is missing; add it", f.name)
		}
		if value == nil {
			continue
		}
		if err := f.read(r, value, to); err != nil {
			return err
		}
	}
	return nil
}

func readList(r *reader, n *node, example string, read func(item *node) error) error {
	if n.kind != nodeList {
		return r.wrongKind(n, "a list, as in "+example)
	}
	for _, item := range n.items {
		if err := read(item); err != nil {
			return err
		}
	}
	return nil
}

// text reads what has to be text.
func (r *reader) text(n *node, example string) (string, error) {
	text, err := r.scalar(n, example)
	if err == nil && n.kind != nodeText {
		return "", r.errorAt(n, "%s: %s is %s; put it in quotes to make it text", n.label, n.text, n.kind)
	}
	return text, err
}

// scalar reads what is written as text in a form of its own, which no number has.
func (r *reader) scalar(n *node, example string) (string, error) {
	if n.kind == nodeNull || n.kind == nodeList || n.kind == nodeMap {
		return "", r.wrongKind(n, "text, as in "+example)
	}
	return n.text, nil
}

func readWord[T ~string](r *reader, n *node, words []T, to *T) error {
	text, err := r.scalar(n, string(words[0]))
	if err != nil {
		return err
	}
	var names []string
	for _, w := range words {
		if text == string(w) {
			*to = w
			return nil
		}
		names = append(names, string(w))
	}
	return r.errorAt(n, "there is no %s %q%s; %s", n.label, text, suggest(text, names), oneOf(words))
}

func (r *reader) boolean(n *node, to *bool) error {
	if n.kind != nodeBool || (n.text != "true" && n.text != "false") {
		return r.wrongKind(n, "true or false, without quotes")
	}
	*to = n.text == "true"
	return nil
}

// whole reads a plain number in decimal digits.
func (r *reader) whole(n *node, least, most int) (int, error) {
	value, err := strconv.Atoi(n.text)
	if n.kind != nodeWhole || err != nil || value < least || value > most || !isDecimal(n.text) {
		return 0, r.errorAt(n, "%s: write a whole number from %d to %d", n.label, least, most)
	}
	return value, nil
}

// isDecimal refuses a sign, and leading zeros, which mean eight to some and nothing to others.
func isDecimal(number string) bool {
	return !strings.HasPrefix(number, "+") && (number == "0" || !strings.HasPrefix(number, "0"))
}

// count reads a number with k or M, or of bytes. It refuses 0, which refuses everything.
func (r *reader) count(n *node, bytes bool, to *uint64) error {
	parse, example := parseCount, "100 or 2k"
	if bytes {
		parse, example = parseBytes, "1514 or 64KiB"
	}
	if n.kind != nodeWhole && n.kind != nodeText {
		return r.wrongKind(n, "a whole number, as in "+example)
	}
	value, err := parse(n.text)
	if err != nil || !isDecimal(n.text) {
		return r.errorAt(n, "%s: %q is not a whole number that fits; write it as in %s", n.label, n.text, example)
	}
	if value == 0 {
		return r.errorAt(n, "%s: 0 would refuse everything; use at least 1, or a block list", n.label)
	}
	*to = value
	return nil
}

func (r *reader) duration(n *node, to *time.Duration) error {
	text, err := r.scalar(n, "10m")
	if err != nil {
		return err
	}
	if *to, err = ParseDuration(text); err != nil {
		return r.errorFrom(n, err)
	}
	return nil
}

func (r *reader) growth(n *node, to *float64) error {
	value, err := strconv.ParseFloat(n.text, 64)
	if (n.kind != nodeWhole && n.kind != nodeNumber) || err != nil || value < 1 {
		return r.errorAt(n, "%s: write a factor of 1 to %d, as in 2 or 1.5", n.label, maxGrowth)
	}
	*to = value
	return nil
}

func (r *reader) lengths(n *node, to *PrefixLengths) error {
	if err := readFields(r, n, lengthFields(), to); err != nil {
		return err
	}
	if len(n.entries) == 0 {
		return r.errorAt(n, "%s is empty; write {ipv4: 24, ipv6: 48}, or leave it out", n.label)
	}
	return nil
}

func formatDuration(d time.Duration) string {
	for _, u := range units() {
		if d > 0 && d%u.length == 0 {
			return fmt.Sprintf("%d%s", d/u.length, u.name)
		}
	}
	return d.String()
}
