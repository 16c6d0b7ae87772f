// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"
)

// The words of a policy file, in the order in which they are told.

func modes() []Mode { return []Mode{Enforce, Observe} }

func tableFulls() []OnTableFull {
	return []OnTableFull{TableFullChallenge, TableFullPass, TableFullDrop}
}

func kinds() []Kind {
	return []Kind{KindNew, KindConcurrent, KindPackets, KindBytesIn, KindBytesOut}
}

func pers() []Per { return []Per{PerSource, PerDestination, PerSourceDestination, PerService} }

func overs() []Over { return []Over{OverDrop, OverReset, OverChallenge, OverObserve} }

func banScopes() []BanScope { return []BanScope{BanGlobal, BanService} }

func list[T ~string](words []T) string {
	var text []string
	for _, w := range words {
		text = append(text, string(w))
	}
	return strings.Join(text, ", ")
}

// oneOf is the way out of a wrong word: "use a, b or c".
func oneOf[T ~string](words []T) string {
	last := len(words) - 1
	return fmt.Sprintf("use %s or %s", list(words[:last]), words[last])
}

// suggest is ` (did you mean "NAME"?)` if one of the names is what was probably meant.
func suggest(word string, names []string) string {
	best, bestDistance := "", len(word)/3+1
	for _, name := range slices.Sorted(slices.Values(names)) {
		d := distance(strings.ToLower(word), strings.ToLower(name))
		if d < bestDistance || d == bestDistance && best == "" {
			best, bestDistance = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance is how many letters have to be put in, taken out or changed to make b of a (Levenshtein).
// Words of more than 64 letters are far from everything.
func distance(a, b string) int {
	const far = 64
	if len(a) > far || len(b) > far {
		return far
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
