// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
)

// String is the limit in short, without what is as it usually is: "new 50/s burst 100 over reset". Two limits
// that differ have different strings, but for long lists of sources.
func (l Limit) String() string {
	words := []string{string(l.Kind), l.amount()}
	add := func(want bool, format string, args ...any) {
		if want {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	usual := (&Policy{Source: defaultSource()}).defaultPrefix(l.Per)
	add(l.Kind.metered(), "burst %s", l.formatCount(l.Burst))
	add(l.Per != PerSource, "per %s", l.Per)
	add(l.Prefix != usual, "prefix %s", l.Prefix)
	add(l.Strict, "strict")
	add(l.CountRejected, "count_rejected")
	add(l.Over != OverDrop, "over %s", l.Over)
	add(!l.From.IsEmpty(), "from %s", memberText(l.From))
	add(!l.Except.IsEmpty(), "except %s", memberText(l.Except))
	add(l.Exempt != "", "exempt %s", l.Exempt)
	if l.Ban != nil {
		words = append(words, l.Ban.String())
	}
	return strings.Join(words, " ")
}

// String is the ban in short: "ban 5 within 1h for 1h growth 2 max 1d".
func (b Ban) String() string {
	text := fmt.Sprintf("ban %d within %s for %s growth %g max %s", b.After, formatDuration(b.Within), formatDuration(b.For),
		b.Growth, formatDuration(b.Max))
	if b.Scope != BanGlobal {
		text += " scope " + string(b.Scope)
	}
	if b.Prefix != defaultSource() {
		text += " prefix " + b.Prefix.String()
	}
	return text
}
