// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"testing"
)

// What tests may know of the inside that draw policies: package policygen imports this one, so they are outside.

// CheckRoundTrip wants a policy to be the same, and the same text, when it is written out and read again.
func CheckRoundTrip(t fataler, p *Policy) { checkRoundTrip(t, p) }

// SchemaCheck says what is wrong with a text by the schema.
func SchemaCheck(t *testing.T) func(t fataler, text []byte) error {
	schema := compileSchema(t)
	return func(t fataler, text []byte) error { return validate(t, schema, text) }
}

// Vocabulary is each word that a policy file may choose, behind its type.
func Vocabulary() (words []string) {
	words = append(words, typed(modes())...)
	words = append(words, typed(tableFulls())...)
	words = append(words, typed(kinds())...)
	words = append(words, typed(pers())...)
	words = append(words, typed(overs())...)
	return append(words, typed(banScopes())...)
}

func typed[T any](words []T) (out []string) {
	for _, w := range words {
		out = append(out, TypedWord(w))
	}
	return out
}

// TypedWord is a word as Vocabulary has it.
func TypedWord(word any) string { return fmt.Sprintf("%T %v", word, word) }

// NormalPrefixes puts prefixes into the form of a Set.
func NormalPrefixes(prefixes []netip.Prefix) []netip.Prefix { return normalPrefixes(prefixes) }

// ComparePrefixes is the order of a Set.
func ComparePrefixes(a, b netip.Prefix) int { return comparePrefixes(a, b) }

// FindPrefix finds the prefix of a Set that holds an address.
func FindPrefix(prefixes []netip.Prefix, a netip.Addr) (netip.Prefix, bool) {
	return findPrefix(prefixes, a)
}
