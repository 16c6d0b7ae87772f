// SPDX-License-Identifier: Apache-2.0

package policy

// version is the version of the file format.
const version = 1

// The tables are read from top to bottom, wherever the keys stand in the file: what is used by others
// stands first.

func policyFields() []field[Policy] {
	return []field[Policy]{
		{name: "version", doc: "Version of this format: 1", required: true, shape: shape{"const": version},
			read: func(r *reader, n *node, _ *Policy) error { return r.version(n) }},
		{name: "mode", doc: "enforce, or observe: count every verdict and drop nothing", shape: wordShape(modes()),
			read: func(r *reader, n *node, p *Policy) error { return readWord(r, n, modes(), &p.Mode) }},
		{name: "on_table_full", doc: "What happens to a new source when the table of the limits is full",
			shape: wordShape(tableFulls()),
			read:  func(r *reader, n *node, p *Policy) error { return readWord(r, n, tableFulls(), &p.OnTableFull) }},
		{name: "strict_parsing", doc: "Drop packets that cannot be parsed, instead of passing them", shape: boolShape(),
			read: func(r *reader, n *node, p *Policy) error { return r.boolean(n, &p.StrictParsing) }},
		{name: "source", doc: "How many leading bits of an address make one source", shape: lengthsShape(),
			read: func(r *reader, n *node, p *Policy) error { return r.lengths(n, &p.Source) }},
		{name: "sets", doc: "Named lists of prefixes", shape: setsShape(),
			read: func(r *reader, n *node, _ *Policy) error { return r.sets(n) }},
		{name: "services", doc: "What is protected", shape: listShape(shape{"$ref": "#/$defs/service"}, MaxServices),
			read: func(r *reader, n *node, _ *Policy) error { return r.services(n) }},
		{name: "global", doc: "Limits across all services", shape: fieldsShape(globalFields()),
			read: func(r *reader, n *node, p *Policy) error { return readFields(r, n, globalFields(), &p.Global) }},
		{name: "allow", doc: "Sources that pass everything, uncounted", shape: membersShape(),
			read: func(r *reader, n *node, p *Policy) error { return r.members(n, &p.Allow) }},
		{name: "block", doc: "Sources of which every packet is dropped", shape: membersShape(),
			read: func(r *reader, n *node, p *Policy) error { return r.members(n, &p.Block) }},
	}
}

func lengthFields() []field[PrefixLengths] {
	return []field[PrefixLengths]{
		{name: "ipv4", doc: "Leading bits of an IPv4 address", shape: wholeShape(1, 32),
			read: func(r *reader, n *node, l *PrefixLengths) (err error) { l.IPv4, err = r.whole(n, 1, 32); return }},
		{name: "ipv6", doc: "Leading bits of an IPv6 address", shape: wholeShape(1, 128),
			read: func(r *reader, n *node, l *PrefixLengths) (err error) { l.IPv6, err = r.whole(n, 1, 128); return }},
	}
}

func serviceFields() []field[Service] {
	return []field[Service]{
		{name: "name", doc: "Name of the service", required: true, shape: textShape(namePattern),
			read: func(r *reader, n *node, s *Service) (err error) { s.Name, err = r.text(n, `"web"`); return }},
		{name: "listen", doc: "Where it listens: [LOCAL:]PORT/PROTO, as in 443/tcp, 8000-8100/udp or any/tcp", required: true,
			shape: filledShape(listShape(textShape(listenPattern), MaxListens)),
			read:  func(r *reader, n *node, s *Service) error { return r.listens(n, s) }},
		{name: "allow", doc: "Sources that pass this service uncounted", shape: membersShape(),
			read: func(r *reader, n *node, s *Service) error { return r.members(n, &s.Allow) }},
		{name: "limits", doc: "What a source may do here", shape: limitsShape(MaxServiceLimits),
			read: func(r *reader, n *node, s *Service) error { return r.limits(n, &s.Limits) }},
	}
}

func globalFields() []field[Global] {
	return []field[Global]{
		{name: "limits", doc: "What a source may do on all services together", shape: limitsShape(MaxGlobalLimits),
			read: func(r *reader, n *node, g *Global) error { return r.limits(n, &g.Limits) }},
	}
}

func limitFields() []field[Limit] {
	return []field[Limit]{
		{name: "per", doc: "Whose count it is", required: true, shape: wordShape(pers()),
			read: func(r *reader, n *node, l *Limit) error { return readWord(r, n, pers(), &l.Per) }},
		{name: "prefix", doc: "How many leading bits of an address make one count", shape: lengthsShape(),
			read: func(r *reader, n *node, l *Limit) error { return r.lengths(n, &l.Prefix) }},
		{name: "new", doc: "New connections over time, as in 50/s or 3/min", shape: rateShape(countPattern),
			read: func(r *reader, n *node, l *Limit) error { return r.rate(n, KindNew, l) }},
		{name: "concurrent", doc: "Established connections at a time", shape: countShape(countPattern),
			read: func(r *reader, n *node, l *Limit) error {
				l.Kind = KindConcurrent
				return r.count(n, false, &l.Concurrent)
			}},
		{name: "packets", doc: "Packets over time, as in 300/s", shape: rateShape(countPattern),
			read: func(r *reader, n *node, l *Limit) error { return r.rate(n, KindPackets, l) }},
		{name: "bytes_in", doc: "Bytes from a source over time, as in 5MiB/s", shape: rateShape(bytesPattern),
			read: func(r *reader, n *node, l *Limit) error { return r.rate(n, KindBytesIn, l) }},
		{name: "bytes_out", doc: "Bytes to a source over time, as in 20MB/60s", shape: rateShape(bytesPattern),
			read: func(r *reader, n *node, l *Limit) error { return r.rate(n, KindBytesOut, l) }},
		{name: "burst", doc: "What may come at once; COUNT of the rate where it is left out, half of it if strict",
			shape: countShape(burstPattern),
			read:  func(r *reader, n *node, l *Limit) error { return r.count(n, l.Kind.bytes(), &l.Burst) }},
		{name: "strict", doc: "At most COUNT in any window of the period, burst included", shape: boolShape(),
			read: func(r *reader, n *node, l *Limit) error { return r.boolean(n, &l.Strict) }},
		{name: "count_rejected", doc: "Charge what is refused too, so that a hammering source stays out", shape: boolShape(),
			read: func(r *reader, n *node, l *Limit) error { return r.boolean(n, &l.CountRejected) }},
		{name: "over", doc: "What happens over the limit", shape: wordShape(overs()),
			read: func(r *reader, n *node, l *Limit) error { return readWord(r, n, overs(), &l.Over) }},
		{name: "from", doc: "Only these sources", shape: filledShape(membersShape()),
			read: func(r *reader, n *node, l *Limit) error { return r.from(n, l) }},
		{name: "except", doc: "Not these sources", shape: membersShape(),
			read: func(r *reader, n *node, l *Limit) error { return r.members(n, &l.Except) }},
		{name: "exempt", doc: "Sources that pass a limit per service", shape: shape{"const": ExemptVerified},
			read: func(r *reader, n *node, l *Limit) error { return r.exempt(n, l) }},
		{name: "ban", doc: "When being over the limit puts a source on the block list", shape: fieldsShape(banFields()),
			read: func(r *reader, n *node, l *Limit) error {
				l.Ban = new(Ban)
				return readFields(r, n, banFields(), l.Ban)
			}},
	}
}

func banFields() []field[Ban] {
	duration := textShape(durationPattern)
	return []field[Ban]{
		{name: "after", doc: "How many strikes", required: true, shape: wholeShape(1, maxStrikes),
			read: func(r *reader, n *node, b *Ban) error {
				after, err := r.whole(n, 1, maxStrikes)
				b.After = uint64(after)
				return err
			}},
		{name: "within", doc: "In what time", required: true, shape: duration,
			read: func(r *reader, n *node, b *Ban) error { return r.duration(n, &b.Within) }},
		{name: "for", doc: "How long the first ban is", required: true, shape: duration,
			read: func(r *reader, n *node, b *Ban) error { return r.duration(n, &b.For) }},
		{name: "growth", doc: "Factor of each repeat", shape: shape{"type": "number", "minimum": 1, "maximum": maxGrowth},
			read: func(r *reader, n *node, b *Ban) error { return r.growth(n, &b.Growth) }},
		{name: "max", doc: "The longest ban", shape: duration,
			read: func(r *reader, n *node, b *Ban) error { return r.duration(n, &b.Max) }},
		{name: "scope", doc: "Banned from this service or from all", shape: wordShape(banScopes()),
			read: func(r *reader, n *node, b *Ban) error { return readWord(r, n, banScopes(), &b.Scope) }},
		{name: "prefix", doc: "How much of the address is banned; wider than a source only with strikes from 3 addresses",
			shape: lengthsShape(),
			read:  func(r *reader, n *node, b *Ban) error { return r.lengths(n, &b.Prefix) }},
	}
}
