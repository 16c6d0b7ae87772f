// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// nodeKind is what stands at a place of the file.
type nodeKind uint8

const (
	nodeNull nodeKind = iota
	nodeText
	nodeWhole
	nodeNumber
	nodeBool
	nodeList
	nodeMap
)

// String is the kind in words, as in "this is a list".
func (k nodeKind) String() string {
	return [...]string{"empty", "text", "a whole number", "a number", "true or false", "a list", "a mapping"}[k]
}

// node is one value of the file: the plain part of YAML, where it stands, and the key that it
// belongs to.
type node struct {
	kind         nodeKind
	line, column int
	label        string
	// text is a scalar, without its quotes.
	text    string
	items   []*node
	entries []entry
}

// entry is one key of a mapping and its value.
type entry struct {
	name         string
	line, column int
	value        *node
}

// get returns the value of a key, nil if it is not there.
func (n *node) get(name string) *node {
	for _, e := range n.entries {
		if e.name == name {
			return e.value
		}
	}
	return nil
}

// tree reads the text as one YAML document. Anchors, tags, further documents and whatever else a
// policy has no use for are refused before the parser sees them.
func (s *source) tree() (root *node, err error) {
	defer func() {
		// A defect of the YAML library must not take down the command that reads a file.
		if r := recover(); r != nil {
			root, err = nil, s.errorAt(1, 1, "the YAML parser gave up (%v); write it more simply", r)
		}
	}()
	tokens := lexer.Tokenize(s.text)
	if err := s.checkTokens(tokens); err != nil {
		return nil, err
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, s.syntaxError(err)
	}
	for _, doc := range file.Docs {
		if doc.Body != nil {
			return s.convert(doc.Body, "the policy")
		}
	}
	return nil, s.errorAt(1, 1, "the file holds no policy; begin with version: 1")
}

func (s *source) syntaxError(err error) error {
	var syntax yaml.Error
	if !errors.As(err, &syntax) || syntax.GetToken() == nil {
		return s.errorAt(1, 1, "%v; write it as YAML", err)
	}
	return s.errorAtToken(syntax.GetToken(), "%s", syntaxWords(syntax.GetMessage()))
}

// syntaxWords says what the commonest faults of the YAML parser mean to somebody who wrote a policy.
func syntaxWords(message string) string {
	switch message {
	case "non-map value is specified":
		return "this is no KEY: VALUE like the lines around it; add the colon, or indent it"
	case "mapping value is not allowed in this context":
		return "a key does not fit here; mend the indentation near here, or put text that has a colon in quotes"
	case "unexpected key name":
		return "a key goes over several lines; put a space behind the colon of each KEY: VALUE"
	case "',' or ']' must be specified":
		return "a , or ] is missing before this; add it"
	case "',' or '}' must be specified":
		return "a , or } is missing before this; add it"
	}
	return message + "; mend the YAML near here"
}

func (s *source) errorAtToken(t *token.Token, format string, args ...any) error {
	return s.errorAt(t.Position.Line, t.Position.Column, format, args...)
}

func (s *source) convert(from ast.Node, label string) (*node, error) {
	switch from := from.(type) {
	case *ast.MappingNode:
		return s.convertMap(from, label)
	case *ast.SequenceNode:
		n := newNode(nodeList, from.Start, label)
		for _, value := range from.Values {
			item, err := s.convert(value, label)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		return n, nil
	case *ast.LiteralNode:
		n := newNode(nodeText, from.Start, label)
		n.text = from.Value.Value
		return n, nil
	}
	t := from.GetToken()
	kind, ok := scalarKind(from)
	if !ok {
		return nil, s.errorAtToken(t, "%s is not used in a policy; write a plain value", from.Type())
	}
	n := newNode(kind, t, label)
	n.text = t.Value
	return n, nil
}

func (s *source) convertMap(from *ast.MappingNode, label string) (*node, error) {
	n := newNode(nodeMap, from.Start, label)
	seen := map[string]int{}
	for i, pair := range from.Values {
		t := pair.Key.GetToken()
		if kind, ok := scalarKind(pair.Key); !ok || kind != nodeText {
			return nil, s.errorAtToken(t, "the key %q is not text; put it in quotes", t.Value)
		}
		if i == 0 && !from.IsFlowStyle {
			n.line, n.column = t.Position.Line, t.Position.Column
		}
		if line, twice := seen[t.Value]; twice {
			return nil, s.errorAtToken(t, "%q is there twice, first on line %d; leave one", t.Value, line)
		}
		seen[t.Value] = t.Position.Line
		value, err := s.convert(pair.Value, t.Value)
		if err != nil {
			return nil, err
		}
		if value.kind == nodeNull {
			value.line, value.column = t.Position.Line, t.Position.Column
		}
		n.entries = append(n.entries, entry{name: t.Value, line: t.Position.Line, column: t.Position.Column, value: value})
	}
	return n, nil
}

func newNode(kind nodeKind, t *token.Token, label string) *node {
	return &node{kind: kind, line: t.Position.Line, column: t.Position.Column, label: label}
}

func scalarKind(n ast.Node) (kind nodeKind, ok bool) {
	switch n.(type) {
	case *ast.NullNode:
		return nodeNull, true
	case *ast.StringNode:
		return nodeText, true
	case *ast.IntegerNode:
		return nodeWhole, true
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return nodeNumber, true
	case *ast.BoolNode:
		return nodeBool, true
	}
	return 0, false
}

// What a policy may hold of YAML's structure, for the parser's recursion and time have no bounds of
// their own: it nests once for each key of a block mapping.
const (
	maxFlowDepth = 16
	maxIndent    = 256
	maxDashes    = 8
	maxKeys      = 512
)

// checkTokens refuses what a policy has no use for, and what would cost the parser too much.
func (s *source) checkTokens(tokens token.Tokens) error {
	shape := shapeCheck{keys: map[int]int{}}
	for _, t := range tokens {
		if why := refusedToken(t); why != "" {
			return s.errorAtToken(t, "%s", why)
		}
		if t.Type == token.DocumentHeaderType && shape.content {
			return s.errorAtToken(t, "a second document begins here; a policy is one document")
		}
		if at, why := shape.add(t); why != "" {
			return s.errorAtToken(at, "%s", why)
		}
	}
	return nil
}

func refusedToken(t *token.Token) string {
	switch t.Type {
	case token.AnchorType, token.AliasType:
		return "anchors and aliases (& and *) are not used in a policy; write the value out, or name prefixes in sets"
	case token.MergeKeyType:
		return "merge keys (<<) are not used in a policy; write the fields out"
	case token.TagType:
		return "tags (!) are not used in a policy; put text that begins with ! in quotes"
	case token.DirectiveType:
		return "directives (%) are not used in a policy; take the line out"
	case token.MappingKeyType:
		return "complex keys (?) are not used in a policy; write NAME: VALUE"
	case token.InvalidType:
		return syntaxWords(t.Error)
	}
	return ""
}

// shapeCheck follows the tokens and finds what nests too deep or goes on for too long.
type shapeCheck struct {
	content      bool
	flow, dashes int
	line         int
	// keys counts the keys that follow each other in one column.
	keys    map[int]int
	deepest int
	before  *token.Token
}

// add takes the next token and says where and why the text is refused, if it is.
func (c *shapeCheck) add(t *token.Token) (at *token.Token, why string) {
	if t.Type != token.CommentType && t.Type != token.DocumentHeaderType {
		c.content = true
	}
	if t.Position.Line != c.line {
		c.line, c.dashes = t.Position.Line, 0
		if t.Position.Column > maxIndent && c.flow == 0 {
			return t, fmt.Sprintf("the line is indented by more than %d columns; indent by two a level", maxIndent)
		}
	}
	defer func() { c.before = t }()
	switch t.Type {
	case token.SequenceStartType, token.MappingStartType:
		c.flow++
	case token.SequenceEndType, token.MappingEndType:
		c.flow--
	case token.SequenceEntryType:
		c.dashes++
	case token.MappingValueType:
		return c.before, c.addKey()
	}
	if c.flow > maxFlowDepth || c.dashes > maxDashes {
		return t, "this nests deeper than a policy does; close a bracket or begin a new line"
	}
	c.forget(t.Position.Column)
	return nil, ""
}

// addKey counts the key before a colon.
func (c *shapeCheck) addKey() string {
	if c.before == nil {
		return ""
	}
	column := c.before.Position.Column
	c.keys[column]++
	c.deepest = max(c.deepest, column)
	if c.keys[column] > maxKeys {
		return fmt.Sprintf("a mapping of more than %d keys is not a policy; take some out", maxKeys)
	}
	return ""
}

// forget ends the mappings that stood further right than column.
func (c *shapeCheck) forget(column int) {
	if column >= c.deepest {
		return
	}
	deepest := 0
	for at := range c.keys {
		if at > column {
			delete(c.keys, at)
		} else {
			deepest = max(deepest, at)
		}
	}
	c.deepest = deepest
}
