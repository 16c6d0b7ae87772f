// SPDX-License-Identifier: Apache-2.0

package policy

import "fmt"

// ParseConcurrent reads how many connections may be open at a time: a whole number from 1 on, with k or M behind it if
// need be. Errors wrap ErrInvalid.
func ParseConcurrent(s string) (uint64, error) {
	n, err := parseCount(s)
	if err != nil {
		return 0, invalid(fmt.Sprintf("number of connections %q", s), "write a whole number, as in 200 or 2k")
	}
	if f := checkConcurrent(Limit{Kind: KindConcurrent, Concurrent: n}); f != nil {
		return 0, invalid(fmt.Sprintf("number of connections %q", s), "%s", f.text)
	}
	return n, nil
}
