// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Words is the limit in words: "50 new connections a second per source (/32, /64), burst 100, over: drop".
func (l Limit) Words() string {
	var w strings.Builder
	switch {
	case !l.Kind.metered():
		fmt.Fprintf(&w, "%d concurrent %s", l.Concurrent, plural(l.Concurrent, "connection"))
	default:
		fmt.Fprintf(&w, "%s %s", l.counted(l.Rate.Count), inPeriod(l.Rate.Period))
	}
	w.WriteString(l.perWords())
	if !l.From.IsEmpty() {
		w.WriteString(", from " + memberText(l.From))
	}
	if !l.Except.IsEmpty() {
		w.WriteString(", except " + memberText(l.Except))
	}
	if l.Kind.metered() {
		w.WriteString(", burst " + l.formatCount(l.Burst))
	}
	if l.Strict {
		w.WriteString(", strict")
	}
	if l.CountRejected {
		w.WriteString(", what is refused counts too")
	}
	if l.Exempt == ExemptVerified {
		w.WriteString(", verified sources exempt")
	}
	fmt.Fprintf(&w, ", over: %s", l.Over)
	if l.Ban != nil {
		w.WriteString("; " + l.Ban.Words())
	}
	return w.String()
}

// counted is a number of what the limit counts: "50 new connections", "20MB received".
func (l Limit) counted(n uint64) string {
	switch l.Kind {
	case KindNew:
		return fmt.Sprintf("%d new %s", n, plural(n, "connection"))
	case KindPackets:
		return fmt.Sprintf("%d %s", n, plural(n, "packet"))
	case KindBytesIn:
		return FormatBytes(n) + " received"
	}
	return FormatBytes(n) + " sent"
}

func plural(n uint64, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// inPeriod is "a second" or "in 100s".
func inPeriod(period time.Duration) string {
	switch word := periodWord(period); {
	case word == "":
		return "in " + formatPeriod(period)
	case word == "hour":
		return "an hour"
	default:
		return "a " + word
	}
}

// periodWord is the name of a period that is one unit long, or empty.
func periodWord(period time.Duration) string {
	for _, u := range units() {
		if u.length == period {
			return u.word
		}
	}
	return ""
}

func (l Limit) perWords() string {
	switch l.Per {
	case PerService:
		return " for the whole service"
	case PerSourceDestination:
		return fmt.Sprintf(" per source (%s) and destination", l.Prefix)
	}
	return fmt.Sprintf(" per %s (%s)", l.Per, l.Prefix)
}

// String is "/32, /64".
func (l PrefixLengths) String() string { return fmt.Sprintf("/%d, /%d", l.IPv4, l.IPv6) }

// maxNamed is how many members a limit names in words.
const maxNamed = 3

func isLong(m Members) bool { return len(m.Sets)+len(m.Prefixes) > maxNamed }

// memberText names members, at most maxNamed of them.
func memberText(m Members) string {
	names := slices.Concat(m.Sets, plainPrefixes(m.Prefixes[:min(len(m.Prefixes), maxNamed)]))
	if !isLong(m) {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), len(m.Sets)+len(m.Prefixes)-maxNamed)
}

// Words is the ban in words: "5 strikes within 1h: banned for 1h, then 2 times as long, at most 1d (/32, /64)".
func (b Ban) Words() string {
	text := fmt.Sprintf("%d %s within %s: banned for %s", b.After, plural(b.After, "strike"), formatDuration(b.Within),
		formatDuration(b.For))
	if b.Growth != 1 {
		text += fmt.Sprintf(", then %g times as long, at most %s", b.Growth, formatDuration(b.Max))
	}
	if b.Scope == BanService {
		text += ", from this service"
	}
	return fmt.Sprintf("%s (%s)", text, b.Prefix)
}

// WorstWindow says in words how much one count of the limit can get in one period of the rate, wherever
// the window begins: "at most 150 in any second". Where the limit lets more through by what it is asked to
// do, it says so.
func (l Limit) WorstWindow() string {
	if l.Over == OverObserve {
		return "any number: over: observe refuses nothing"
	}
	if !l.Kind.metered() {
		return fmt.Sprintf("at most %d at any time", l.Concurrent)
	}
	if l.Kind == KindBytesOut {
		return fmt.Sprintf("no bound on open connections; no new one while %s or more are owed", l.formatCount(l.Burst))
	}
	window := periodWord(l.Rate.Period)
	if window == "" {
		window = formatPeriod(l.Rate.Period)
	}
	most := l.Rate.Count
	if !l.Strict {
		most += l.Burst
	}
	text := fmt.Sprintf("at most %s in any %s", l.formatCount(most), window)
	switch {
	case l.Over == OverChallenge && l.namesSource():
		text += fmt.Sprintf(", and once a burst of %s more before proof", l.formatCount(l.Burst))
	case l.Over == OverChallenge:
		text += " without proof of address"
	case l.Exempt != "":
		text += ", and verified sources"
	}
	return text
}
