// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Parse reads a policy file. name is what errors call it. readFile returns the text of the lists that
// it names, as in {file: /etc/synward/relays.txt}, and is called once for each. The policy is normal.
// Every error is an Error.
func Parse(name string, text []byte, readFile func(path string) ([]byte, error)) (*Policy, error) {
	src, err := newSource(name, text)
	if err != nil {
		return nil, err
	}
	root, err := src.tree()
	if err != nil {
		return nil, err
	}
	p := &Policy{}
	r := &reader{src: src, readFile: readFile, policy: p, files: map[string]fileList{}}
	if err := readFields(r, root, policyFields(), p); err != nil {
		return nil, err
	}
	p.fillHead()
	for i := range p.Services {
		p.fillLimits(p.Services[i].Limits)
	}
	p.fillLimits(p.Global.Limits)
	if f := p.check(); f != nil {
		return nil, r.errorAt(root.find(f), "%s", f.text)
	}
	p.Normalize()
	return p, nil
}

// find returns the node of a flaw, or the nearest one around it.
func (n *node) find(f *flaw) *node {
	for _, step := range f.path {
		var next *node
		switch step := step.(type) {
		case string:
			next = n.get(step)
		case int:
			if step < len(n.items) {
				next = n.items[step]
			}
		}
		if next == nil {
			return n
		}
		n = next
	}
	for _, name := range f.fields {
		if value := n.get(name); value != nil {
			return value
		}
	}
	return n
}

func (r *reader) version(n *node) error {
	if n.kind != nodeWhole {
		return r.wrongKind(n, fmt.Sprintf("the number %d", version))
	}
	if n.text != strconv.Itoa(version) {
		return r.errorAt(n, "version %s is unknown to this synward; write version: %d", n.text, version)
	}
	return nil
}

func (r *reader) services(n *node) error {
	return readList(r, n, "services: [{name: web, listen: [443/tcp]}]", func(item *node) error {
		item.label = "a service"
		var s Service
		if err := readFields(r, item, serviceFields(), &s); err != nil {
			return err
		}
		r.policy.Services = append(r.policy.Services, s)
		return nil
	})
}

func (r *reader) listens(n *node, s *Service) error {
	return readList(r, n, "listen: [80/tcp, 443/tcp]", func(item *node) error {
		text, err := r.scalar(item, "443/tcp")
		if err != nil {
			return err
		}
		l, err := ParseListen(text)
		if err != nil {
			return r.errorAt(item, "%v", err)
		}
		s.Listen = append(s.Listen, l)
		return nil
	})
}

func (r *reader) limits(n *node, to *[]Limit) error {
	return readList(r, n, "limits: [{per: source, new: 50/s}]", func(item *node) error {
		item.label = "a limit"
		if err := r.oneKind(item); err != nil {
			return err
		}
		var l Limit
		if err := readFields(r, item, limitFields(), &l); err != nil {
			return err
		}
		if l.Kind == "" {
			return r.errorAt(item, "the limit does not say what it counts; add one of %s", list(kinds()))
		}
		if l.Per == PerService && item.get("prefix") != nil {
			return r.errorAt(item.get("prefix"), "per: service looks at no address; leave out prefix")
		}
		*to = append(*to, l)
		return nil
	})
}

// oneKind refuses a limit that counts two things.
func (r *reader) oneKind(n *node) error {
	first := ""
	for _, e := range n.entries {
		if !slices.Contains(kinds(), Kind(e.name)) {
			continue
		}
		if first != "" {
			return r.src.errorAt(e.line, e.column, "a limit counts one thing, and this one counts %s already; make two limits",
				first)
		}
		first = e.name
	}
	return nil
}

func (r *reader) rate(n *node, kind Kind, l *Limit) error {
	parse, example := ParseRate, "50/s or 3/min"
	if kind.bytes() {
		parse, example = ParseByteRate, "20MB/60s"
	}
	text, err := r.scalar(n, example)
	if err != nil {
		return err
	}
	l.Kind = kind
	if l.Rate, err = parse(text); err != nil {
		text := err.Error()
		if kind == KindPackets {
			text = strings.ReplaceAll(text, "every new connection", "every packet")
		}
		return r.errorAt(n, "%s", text)
	}
	return nil
}

// from refuses a list that narrows a limit to nobody by being empty, for an empty From means everybody.
func (r *reader) from(n *node, l *Limit) error {
	if err := r.members(n, &l.From); err != nil {
		return err
	}
	if l.From.IsEmpty() {
		return r.errorAt(n, "from names nobody; leave it out for everybody, or name a set, which may be empty")
	}
	return nil
}

func (r *reader) exempt(n *node, l *Limit) error {
	text, err := r.scalar(n, ExemptVerified)
	if err != nil {
		return err
	}
	if text != ExemptVerified {
		return r.errorAt(n, "there is no exempt %q; use %s, or name sources in except", text, ExemptVerified)
	}
	l.Exempt = text
	return nil
}
