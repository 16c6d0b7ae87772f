// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// OnlyLimit is the limit of a policy that is as without a file, nil where it has none. ok is false for
// every other policy.
func OnlyLimit(p *policy.Policy) (limit *policy.NewLimit, ok bool) {
	if all := allLimits(p); len(all) == 1 {
		limit = &policy.NewLimit{Rate: all[0].Rate, Burst: all[0].Burst}
	}
	return limit, p.Equal(policy.Default(limit))
}

// InForce says which policy is in force, a line for each part: where it is as without a file, its limit.
func InForce(p datapath.Policy) []string {
	first := fmt.Sprintf("policy: generation %d, %s: %s", p.Generation, p.Mode, Summary(p.Policy))
	if limit, ok := OnlyLimit(p.Policy); ok {
		first = Limit(limit)
	}
	return append(append([]string{first}, Tables(p)...), Troubles(p)...)
}

// unanswered says where challenges are not sent, or not whole.
func unanswered(p datapath.Policy) (lines []string) {
	for _, u := range p.Unanswered {
		name := u.Interface
		if u.Netns != "" {
			name += " (in " + u.Netns + ")"
		}
		what := "sends no challenges, and drops instead"
		if u.Merely != "" {
			what = "sends challenges without " + u.Merely
		}
		lines = append(lines, fmt.Sprintf("%s %s: %s is %s there and not %s; --set-sysctl sets it, or: sysctl -w %[3]s=%[5]s",
			name, what, u.Sysctl, u.Is, u.Needs))
	}
	return lines
}

// Troubles says where limits do not do all that they say, a line for each.
func Troubles(p datapath.Policy) []string {
	return slices.Concat(uncounted(p), unbanned(p), unanswered(p))
}

// unbanned says in one line that the table of bans was full.
func unbanned(p datapath.Policy) []string {
	if p.Unbanned == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s not made, for there was no room: the sources are limited all the same; synward block rm --origin auto lifts all",
		plural(int(min(p.Unbanned, math.MaxInt)), "ban"))}
}

// uncounted says in one line what limits of concurrent connections do not see.
func uncounted(p datapath.Policy) []string {
	if p.ConnTrouble != "" {
		return []string{fmt.Sprintf("connections are not counted, nor handshakes seen: %s; any command that changes something mends it, as `synward apply`", p.ConnTrouble)}
	}
	if p.Uncounted == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s not counted, and so not limited: no room in the table of connections",
		plural(int(min(p.Uncounted, math.MaxInt)), "connection"))}
}

// Limit says in one line what limit is in force. Nil is none.
func Limit(l *policy.NewLimit) string {
	if l == nil {
		return "no limit: new connections are counted, none is refused"
	}
	return fmt.Sprintf("limit: %s (%s)", l, l.WorstWindow())
}

// Tables says of each table, in one line, up to which flood its limits refuse nobody but who they should.
func Tables(p datapath.Policy) []string {
	_, alone := OnlyLimit(p.Policy)
	var lines []string
	for _, t := range p.Tables {
		name, charge := "table", "connection"
		if !alone {
			name, charge = "table of "+shortList(t.Limits), "connection or packet"
		}
		lines = append(lines, fmt.Sprintf("%s: %s, holds up to %s new sources a second with one %s each, %s with a whole burst",
			name, size(t.Bytes), rough(t.Singles), charge, rough(t.Bursts)))
	}
	return lines
}

// maxNames is how many names a line lists.
const maxNames = 4

func shortList(names []string) string {
	if len(names) > maxNames {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
	}
	return strings.Join(names, ", ")
}

// Pending says what happens unless somebody confirms.
func Pending(p *datapath.Pending) string {
	by := ""
	if p.By != "" {
		by = fmt.Sprintf(" (applied by %s)", p.By)
	}
	return fmt.Sprintf("rolls back to generation %d in %s unless confirmed%s", p.Fallback, Duration(p.Left), by)
}

// Unconfirmed says what becomes of an interface unless somebody confirms.
func Unconfirmed(left time.Duration) string {
	return fmt.Sprintf("refuses nothing any more in %s unless confirmed", Duration(left))
}

// Mode names a mode with where it works.
func Mode(m datapath.Mode) string {
	switch m {
	case datapath.ModeNative:
		return "native XDP (in the driver)"
	case datapath.ModeTC:
		return "TC (ingress)"
	case datapath.ModeGeneric:
		return "generic XDP (in the network stack)"
	}
	return string(m)
}

// Duration is a length of time for people: its two largest units, rounded down.
func Duration(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%dms", max(d, 0).Milliseconds())
	}
	units := []struct {
		name   string
		length time.Duration
	}{{"d", policy.Day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}
	for i, u := range units {
		if d < u.length {
			continue
		}
		text := fmt.Sprintf("%d%s", d/u.length, u.name)
		if i+1 < len(units) {
			if rest := d % u.length / units[i+1].length; rest > 0 {
				text += fmt.Sprintf("%d%s", rest, units[i+1].name)
			}
		}
		return text
	}
	return d.String()
}

// Ago is how long before now t was; "-" if t is not known.
func Ago(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	if now.Sub(t) < time.Second {
		return "now"
	}
	return Duration(now.Sub(t)) + " ago"
}

// Until is how far ahead of now t is; "never" if t is zero.
func Until(now, t time.Time) string {
	switch {
	case t.IsZero():
		return "never"
	case !t.After(now):
		return "now"
	}
	return "in " + Duration(t.Sub(now))
}

// size is a number of bytes for people.
func size(n uint64) string {
	const step = 1000
	if n < step {
		return strconv.FormatUint(n, 10) + " B"
	}
	value := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB"} {
		// 999.95 would be printed as 1000.0.
		if value /= step; value < step-0.05 {
			return fmt.Sprintf("%.1f %s", value, unit)
		}
	}
	return fmt.Sprintf("%.1f EB", value/step)
}

// rough is a number for people who ask for its magnitude, rounded down to two digits.
func rough(n uint64) string {
	step := uint64(1)
	for n/step >= 100 {
		step *= 10
	}
	n = n / step * step
	switch {
	case n >= 1_000_000 && n%100_000 == 0:
		return strconv.FormatFloat(float64(n)/1e6, 'f', -1, 64) + "M"
	case n >= 1_000 && n%100 == 0:
		return strconv.FormatFloat(float64(n)/1e3, 'f', -1, 64) + "k"
	}
	return count(n)
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// order sorts prefixes: IPv4 first, by address, the wider before the narrower.
func order(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
