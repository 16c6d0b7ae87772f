// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/synward/synward/pkg/feed"
)

// fileList is what a file of addresses holds, or why it cannot be used.
type fileList struct {
	prefixes []netip.Prefix
	err      error
}

func membersShape() shape {
	return listShape(shape{"anyOf": []shape{textShape(memberPattern), fieldsShape(fileFields())}}, 0)
}

// setsShape is a mapping of names to lists that hold no names of sets.
func setsShape() shape {
	prefixes := listShape(shape{"anyOf": []shape{textShape(prefixPattern), fieldsShape(fileFields())}}, 0)
	return shape{"type": "object", "maxProperties": MaxSets, "propertyNames": shape{"pattern": namePattern},
		"additionalProperties": prefixes}
}

func fileFields() []field[string] {
	return []field[string]{
		{name: "file", doc: "File of addresses and prefixes, one a line; # and ; begin a comment", required: true,
			shape: shape{"type": "string", "minLength": 1},
			read: func(r *reader, n *node, path *string) (err error) {
				if *path, err = r.text(n, "/etc/synward/relays.txt"); err == nil && *path == "" {
					err = r.errorAt(n, "file: the path is empty; write it as in /etc/synward/relays.txt")
				}
				return err
			}},
	}
}

func (r *reader) sets(n *node) error {
	if n.kind != nodeMap {
		return r.wrongKind(n, "a mapping, as in sets: {office: [192.0.2.0/24]}")
	}
	for _, e := range n.entries {
		if f := checkName("set", e.name); f != nil {
			return r.src.errorAt(e.line, e.column, "%s", f.text)
		}
		set := Set{Name: e.name}
		err := readList(r, e.value, "[192.0.2.0/24, {file: PATH}]", func(item *node) (err error) {
			if looksLikeSet(item) {
				return r.errorAt(item, "%q is no address or prefix, and a set holds no other sets; write out what it shall hold",
					item.text)
			}
			set.Prefixes, err = r.prefixes(item, set.Prefixes, "an address, a prefix or {file: PATH}")
			return err
		})
		if err != nil {
			return err
		}
		r.policy.Sets = append(r.policy.Sets, set)
	}
	return nil
}

// members reads a list of sets, prefixes and files.
func (r *reader) members(n *node, to *Members) error {
	return readList(r, n, "[office, 192.0.2.0/24, {file: PATH}]", func(item *node) (err error) {
		if looksLikeSet(item) {
			return r.setName(item, to)
		}
		to.Prefixes, err = r.prefixes(item, to.Prefixes, "a set, an address, a prefix or {file: PATH}")
		return err
	})
}

func looksLikeSet(n *node) bool {
	_, err := ParsePrefix(n.text)
	return n.kind == nodeText && err != nil && checkName("set", n.text) == nil
}

func (r *reader) setName(n *node, to *Members) error {
	if _, ok := r.policy.set(n.text); !ok {
		return r.errorAt(n, "%s", r.policy.unknownSet(n.text))
	}
	to.Sets = append(to.Sets, n.text)
	return nil
}

// prefixes appends what one entry of a list stands for.
func (r *reader) prefixes(n *node, to []netip.Prefix, want string) ([]netip.Prefix, error) {
	switch n.kind {
	case nodeText:
		prefix, err := ParsePrefix(n.text)
		if err != nil {
			return nil, r.errorAt(n, "%v", err)
		}
		return append(to, prefix), nil
	case nodeMap:
		var path string
		if err := readFields(r, n, fileFields(), &path); err != nil {
			return nil, err
		}
		list := r.file(path)
		if list.err != nil {
			err := r.src.errorAt(n.get("file").line, n.get("file").column, "%v", list.err)
			err.cause = list.err
			return nil, err
		}
		return append(to, list.prefixes...), nil
	}
	return nil, r.wrongKind(n, want)
}

func (r *reader) file(path string) fileList {
	list, ok := r.files[path]
	if !ok {
		list = r.readList(path)
		r.files[path] = list
	}
	return list
}

func (r *reader) readList(path string) fileList {
	if r.readFile == nil {
		return fileList{err: fmt.Errorf("%w file %q: no files are read here; write the prefixes in place", ErrInvalid, path)}
	}
	text, err := r.readFile(path)
	if err != nil {
		return fileList{err: fmt.Errorf("read list %q: %w; mend the path or make the file", path, err)}
	}
	prefixes, err := ParseList(path, text)
	return fileList{prefixes, err}
}

// ParseList reads a list of sources in one of the forms that feed.Each knows, also packed by gzip. What is marked
// wl is refused: a list of a policy is for one thing. Errors wrap ErrInvalid and begin with NAME:LINE.
func ParseList(name string, text []byte) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	var inLine error
	err := feed.Each(bytes.NewReader(text), func(number int, line feed.Line, bad error) error {
		switch {
		case bad != nil:
			inLine = fmt.Errorf("%s:%d: %w %w", name, number, ErrInvalid, bad)
		case line.Mark == feed.ForAllow:
			inLine = fmt.Errorf("%s:%d: %w line: it is marked wl, and a list of a policy is for one thing; leave the line out", name, number, ErrInvalid)
		default:
			prefixes = append(prefixes, line.Prefix)
		}
		return inLine
	})
	if inLine != nil {
		return nil, inLine
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w list: %w", name, ErrInvalid, err)
	}
	return prefixes, nil
}
