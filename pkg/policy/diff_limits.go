// SPDX-License-Identifier: Apache-2.0

package policy

import "fmt"

// limits tells which limits came, went and changed. The longest run of limits that stay in their order
// stays; between two of these the others are changes of each other as long as there are some on both sides.
func (d *differ) limits(what string, before, after []Limit) {
	stay := append(commonLimits(before, after), [2]int{len(before), len(after)})
	i, j := 0, 0
	for _, pair := range stay {
		for i < pair[0] || j < pair[1] {
			switch {
			case i < pair[0] && j < pair[1]:
				d.changedLimit(what, j, before[i], after[j])
				i, j = i+1, j+1
			case i < pair[0]:
				d.add(Removed, fmt.Sprintf("%s limit %d", what, i+1), before[i].String(), "")
				i++
			default:
				d.add(Added, fmt.Sprintf("%s limit %d", what, j+1), "", after[j].String())
				j++
			}
		}
		i, j = pair[0]+1, pair[1]+1
	}
}

func (d *differ) changedLimit(what string, index int, before, after Limit) {
	what = fmt.Sprintf("%s limit %d", what, index+1)
	a, b := before.String(), after.String()
	if a != b {
		d.add(Changed, what, a, b)
	}
	// Of a long list the limit names only the first entries.
	if a == b || isLong(before.From) || isLong(after.From) {
		d.members(what+" from", before.From, after.From)
	}
	if a == b || isLong(before.Except) || isLong(after.Except) {
		d.members(what+" except", before.Except, after.Except)
	}
}

// commonLimits returns the places of a longest common subsequence. There are at most MaxServiceLimits limits.
func commonLimits(before, after []Limit) [][2]int {
	length := make([][]int, len(before)+1)
	for i := range length {
		length[i] = make([]int, len(after)+1)
	}
	for i := len(before) - 1; i >= 0; i-- {
		for j := len(after) - 1; j >= 0; j-- {
			if length[i][j] = max(length[i+1][j], length[i][j+1]); limitsEqual(before[i], after[j]) {
				length[i][j] = length[i+1][j+1] + 1
			}
		}
	}
	var pairs [][2]int
	for i, j := 0, 0; i < len(before) && j < len(after); {
		switch {
		case limitsEqual(before[i], after[j]):
			pairs = append(pairs, [2]int{i, j})
			i, j = i+1, j+1
		case length[i+1][j] >= length[i][j+1]:
			i++
		default:
			j++
		}
	}
	return pairs
}
