// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// YAML is the policy as a file that Parse makes an equal policy of, always the same text for the same
// policy. Lists that came from files are written out; what is as it is by default in a limit is left out.
func (p *Policy) YAML() []byte {
	n := p.Clone()
	n.Normalize()
	w := &yamlWriter{policy: n}
	w.line(0, "version: %d", version)
	w.line(0, "mode: %s", n.Mode)
	w.line(0, "on_table_full: %s", n.OnTableFull)
	w.line(0, "strict_parsing: %t", n.StrictParsing)
	w.line(0, "source: %s", flowLengths(n.Source))
	w.sets()
	w.services()
	if len(n.Global.Limits) > 0 {
		w.line(0, "global:")
		w.limits(1, n.Global.Limits)
	}
	w.members(0, "allow", n.Allow)
	w.members(0, "block", n.Block)
	return []byte(w.text.String())
}

type yamlWriter struct {
	policy *Policy
	text   strings.Builder
}

func (w *yamlWriter) line(level int, format string, args ...any) {
	w.text.WriteString(strings.Repeat("  ", level))
	fmt.Fprintf(&w.text, format, args...)
	w.text.WriteByte('\n')
}

func (w *yamlWriter) sets() {
	if len(w.policy.Sets) > 0 {
		w.line(0, "sets:")
	}
	for _, s := range w.policy.Sets {
		w.list(1, quote(s.Name), prefixWords(nil, s.Prefixes))
	}
}

func (w *yamlWriter) services() {
	if len(w.policy.Services) > 0 {
		w.line(0, "services:")
	}
	for _, s := range w.policy.Services {
		w.line(1, "- name: %s", quote(s.Name))
		var listen []string
		for _, l := range s.Listen {
			listen = append(listen, strconv.Quote(l.String()))
		}
		w.list(2, "listen", listen)
		w.members(2, "allow", s.Allow)
		w.limits(2, s.Limits)
	}
}

func (w *yamlWriter) limits(level int, limits []Limit) {
	if len(limits) > 0 {
		w.line(level, "limits:")
	}
	for _, l := range limits {
		w.line(level+1, "- {%s}", strings.Join(w.policy.flowLimit(l), ", "))
	}
}

func (w *yamlWriter) members(level int, name string, m Members) {
	if !m.IsEmpty() {
		w.list(level, name, memberWords(m))
	}
}

// list writes a short list in one line, a long one with a line for each entry.
func (w *yamlWriter) list(level int, name string, words []string) {
	const width = 110
	flow := strings.Repeat("  ", level) + name + ": [" + strings.Join(words, ", ") + "]"
	if len(words) <= 1 || utf8.RuneCountInString(flow) <= width {
		w.line(0, "%s", flow)
		return
	}
	w.line(level, "%s:", name)
	for _, word := range words {
		w.line(level+1, "- %s", word)
	}
}

func memberWords(m Members) []string {
	var words []string
	for _, name := range m.Sets {
		words = append(words, quote(name))
	}
	return prefixWords(words, m.Prefixes)
}

func prefixWords(words []string, prefixes []netip.Prefix) []string {
	for _, p := range prefixes {
		if p.Addr().Is6() {
			words = append(words, strconv.Quote(FormatPrefix(p)))
		} else {
			words = append(words, FormatPrefix(p))
		}
	}
	return words
}

func flowLengths(l PrefixLengths) string {
	return fmt.Sprintf("{ipv4: %d, ipv6: %d}", l.IPv4, l.IPv6)
}

// flowLimit is the fields of a limit that are not as by default.
func (p *Policy) flowLimit(l Limit) []string {
	fields := []string{"per: " + string(l.Per)}
	add := func(want bool, format string, args ...any) {
		if want {
			fields = append(fields, fmt.Sprintf(format, args...))
		}
	}
	add(l.Prefix != p.defaultPrefix(l.Per), "prefix: %s", flowLengths(l.Prefix))
	add(true, "%s: %s", l.Kind, l.amount())
	add(l.Kind.metered() && l.Burst != l.defaultBurst(), "burst: %s", l.formatCount(l.Burst))
	add(l.Strict, "strict: true")
	add(l.CountRejected, "count_rejected: true")
	add(l.Over != OverDrop, "over: %s", l.Over)
	add(!l.From.IsEmpty(), "from: [%s]", strings.Join(memberWords(l.From), ", "))
	add(!l.Except.IsEmpty(), "except: [%s]", strings.Join(memberWords(l.Except), ", "))
	add(l.Exempt != "", "exempt: %s", l.Exempt)
	if l.Ban != nil {
		add(true, "ban: {%s}", strings.Join(p.flowBan(*l.Ban), ", "))
	}
	return fields
}

func (p *Policy) flowBan(b Ban) []string {
	fields := []string{
		"after: " + strconv.FormatUint(b.After, 10),
		"within: " + formatDuration(b.Within),
		"for: " + formatDuration(b.For),
	}
	byDefault := Ban{For: b.For, Growth: b.Growth}.filled(p.Source)
	if b.Growth != defaultGrowth {
		fields = append(fields, "growth: "+strconv.FormatFloat(b.Growth, 'f', -1, 64))
	}
	if b.Max != byDefault.Max {
		fields = append(fields, "max: "+formatDuration(b.Max))
	}
	if b.Scope != byDefault.Scope {
		fields = append(fields, "scope: "+string(b.Scope))
	}
	if b.Prefix != byDefault.Prefix {
		fields = append(fields, "prefix: "+flowLengths(b.Prefix))
	}
	return fields
}

// amount is how much a limit admits, as it is typed: 50/s, 20MB/min, 200.
func (l Limit) amount() string {
	switch {
	case !l.Kind.metered():
		return strconv.FormatUint(l.Concurrent, 10)
	case l.Kind.bytes():
		return FormatByteRate(l.Rate)
	}
	return l.Rate.String()
}

// quote puts a name in quotes unless YAML can take it for nothing but text.
func quote(name string) string {
	plain := regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`).MatchString(name)
	switch strings.ToLower(name) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf":
		plain = false
	}
	if plain {
		return name
	}
	return strconv.Quote(name)
}
