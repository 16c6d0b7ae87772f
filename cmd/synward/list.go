// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/report"
)

// maxReason is how many bytes of a reason are kept with an entry.
const maxReason = 63

// maxNotes is for how many prefixes a command looks whether another entry decides; a person reads
// no more.
const maxNotes = 100

// Origins of entries: named by the policy in force, typed by somebody.
const (
	originPolicy   = "policy"
	originOperator = "operator"
)

// list is what allow and block have in common.
type list struct {
	*env
	id datapath.List
	// name is that of the command, "block"; title that of the list, "block list".
	name, title string
}

type addFlags struct {
	forHowLong string
	reason     string
	scope      datapath.Scope
	force      bool
	kill       bool
}

func (l list) command(short string) *cobra.Command {
	cmd := &cobra.Command{
		Use: l.name, Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s needs a verb: add, rm or list", name(cmd))
			}
			if _, err := policy.ParsePrefix(args[0]); err == nil {
				return usagef("unknown command %q; did you mean %s add %[1]s?", args[0], cmd.CommandPath())
			}
			return knownCommand(cmd, args)
		},
		// Without it cobra would show help instead of asking Args.
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.AddCommand(l.addCommand(), l.rmCommand(), l.listCommand())
	return cmd
}

func (l list) addCommand() *cobra.Command {
	var f addFlags
	cmd := &cobra.Command{
		Use: "add PREFIX...", Short: "Put addresses or prefixes on the " + l.title,
		Long: "Put addresses or prefixes on the " + l.title + ". What is on it already is replaced. What the policy\n" +
			"names stays as the policy says." + map[datapath.List]string{datapath.Block: "\n\n" +
			"A block of somebody who is logged in by SSH, of an address of this host, its gateways or its resolvers is refused\n" +
			"(exit code 5). With --kill the open sockets of the blocked are closed too, in every network namespace: TCP, and\n" +
			"UDP that is connected."}[l.id],
		Example: "  synward " + l.name + " add 192.0.2.1 2001:db8::/48 --for 10m --reason 'ticket 17'",
		Args:    someArgs("a prefix"),
		RunE:    l.asRoot(func(_ *cobra.Command, args []string) error { return l.add(args, f) }),
	}
	cmd.Flags().StringVar(&f.forHowLong, "for", "", "`TIME` after which it ends by itself, as in 10m, 12h or 7d (default: never)")
	cmd.Flags().StringVar(&f.reason, "reason", "", "`TEXT` to keep with it")
	f.scope = datapath.ScopeAll
	if l.id == datapath.Block {
		choiceFlag(cmd.Flags(), &f.scope, "scope", "", "packets to drop, new connections or all",
			datapath.ScopeAll, datapath.ScopeNew)
		forceBlockFlag(cmd, &f.force)
		cmd.Flags().BoolVar(&f.kill, "kill", false, "close their open sockets too")
	}
	return cmd
}

func (l list) add(args []string, f addFlags) error {
	prefixes, err := parsePrefixes(args)
	if err != nil {
		return err
	}
	model, err := l.entry(f)
	if err != nil {
		return err
	}
	entries := make([]datapath.Entry, len(prefixes))
	for i, p := range prefixes {
		entries[i] = model
		entries[i].Prefix = p
	}
	if f.kill {
		if err := l.kernel.CanCloseSockets(); err != nil {
			return err
		}
	}
	return l.change(func(i instance) error {
		if l.id == datapath.Block && !f.force {
			if err := l.guardBlock(i, prefixes); err != nil {
				return err
			}
		}
		if err := i.Add(l.id, entries); err != nil {
			return err
		}
		l.say("%s: on the %s, expires %s", subject(prefixes), l.title, report.Until(model.Created, model.Expires))
		if l.id == datapath.Block {
			if err := l.noteAllowed(i, prefixes); err != nil {
				return err
			}
		}
		if err := l.noteRelated(i, prefixes); err != nil || !f.kill {
			return err
		}
		return l.kill(i, prefixes, f.force)
	})
}

// entry is what the new entries have in common.
func (l list) entry(f addFlags) (datapath.Entry, error) {
	e := datapath.Entry{Scope: f.scope, Created: l.now(), Origin: originOperator, By: l.operator(), Reason: f.reason}
	if f.forHowLong != "" {
		d, err := policy.ParseDuration(f.forHowLong)
		if err != nil {
			return e, err
		}
		e.Expires = e.Created.Add(d)
	}
	if len(f.reason) > maxReason {
		return e, fmt.Errorf("%w reason: it has %d bytes; use at most %d", policy.ErrInvalid, len(f.reason), maxReason)
	}
	for _, r := range f.reason {
		if !unicode.IsPrint(r) {
			return e, fmt.Errorf("%w reason %q: use printable characters on one line", policy.ErrInvalid, f.reason)
		}
	}
	return e, nil
}

// noteAllowed says which of the blocked prefixes pass all the same, since allow wins over block.
func (l list) noteAllowed(i instance, prefixes []netip.Prefix) error {
	for _, p := range prefixes[:min(len(prefixes), maxNotes)] {
		by, err := i.Covering(datapath.Allow, p.Addr())
		if err != nil {
			return err
		}
		if by != nil {
			l.say("note: %s is on the allow list by %s, and allow wins; to change that: %s",
				policy.FormatPrefix(p), inWords(*by), l.wayOff("allow", *by))
		}
	}
	return nil
}

// inWords names an entry with its origin, if no operator typed it.
func inWords(e datapath.Entry) string {
	if e.Origin == originPolicy {
		return policy.FormatPrefix(e.Prefix) + " of the policy"
	}
	if name, ok := datapath.FeedOfOrigin(e.Origin); ok {
		return policy.FormatPrefix(e.Prefix) + " of feed " + name
	}
	return policy.FormatPrefix(e.Prefix)
}

// wayOff is how an entry is taken off a list.
func (l list) wayOff(list string, e datapath.Entry) string {
	if e.Origin == originPolicy {
		return "apply a policy without it"
	}
	if name, ok := datapath.FeedOfOrigin(e.Origin); ok {
		return fmt.Sprintf("load feed %s without it, or %s feed rm %[1]s", name, l.program())
	}
	return fmt.Sprintf("%s %s rm %s", l.program(), list, policy.FormatPrefix(e.Prefix))
}

func (l list) rmCommand() *cobra.Command {
	force, origin := false, ""
	cmd := &cobra.Command{
		Use: "rm PREFIX...", Short: "Take addresses or prefixes off the " + l.title,
		Long: "Take addresses or prefixes off the " + l.title + ". What the policy names stays until a policy without it is\n" +
			"applied: exit code 1." + map[datapath.List]string{datapath.Allow: "\n\n" +
			"An entry that keeps somebody who is logged in by SSH from being locked out is not taken off (exit code 5).",
			datapath.Block: "\n\nA ban that is taken off is forgotten: the next one is as long as a first. --origin auto lifts all bans."}[l.id],
		Example: "  synward " + l.name + " rm 192.0.2.1 2001:db8::/48",
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case origin == "":
				return someArgs("a prefix")(cmd, args)
			case origin != datapath.OriginAuto:
				return usagef("there is no --origin %q to take off; use %s", origin, datapath.OriginAuto)
			case len(args) > 0:
				return usagef("--origin %s takes off all bans; leave out %s", origin, args[0])
			}
			return nil
		},
		RunE: l.asRoot(func(_ *cobra.Command, args []string) error {
			if origin != "" {
				return l.rmBans()
			}
			return l.rm(args, force)
		}),
	}
	if l.id == datapath.Allow {
		forceFlag(cmd, &force)
	} else {
		cmd.Flags().StringVar(&origin, "origin", "", "take off all entries of this `ORIGIN`: auto, the bans")
	}
	return cmd
}

// rmBans takes off what the data path put there.
func (l list) rmBans() error {
	return l.change(func(i instance) error {
		lifted, err := i.LiftBans()
		if err != nil {
			return err
		}
		if lifted == 0 {
			l.say("nobody was banned")
			return nil
		}
		bans := "bans"
		if lifted == 1 {
			bans = "ban"
		}
		l.say("%d %s lifted", lifted, bans)
		return nil
	})
}

func (l list) rm(args []string, force bool) error {
	prefixes, err := parsePrefixes(args)
	if err != nil {
		return err
	}
	return l.change(func(i instance) error {
		if l.id == datapath.Allow && !force {
			goes := func(e datapath.Entry) bool { return e.Origin == originOperator && slices.Contains(prefixes, e.Prefix) }
			if err := l.guardDisallow(i, goes); err != nil {
				return err
			}
		}
		removed, err := i.Remove(l.id, prefixes)
		if err != nil {
			return err
		}
		stay, by, err := l.ofOthers(i, prefixes)
		if err != nil {
			return err
		}
		if len(stay) > 0 {
			return l.staysByOthers(stay, prefixes, by, removed)
		}
		switch {
		case removed == 0:
			l.say("%s: not on the %s, nothing changed", subject(prefixes), l.title)
		case removed < len(prefixes):
			l.say("%d of %d prefixes: off the %s; the others were not on it", removed, len(prefixes), l.title)
		default:
			l.say("%s: off the %s", subject(prefixes), l.title)
		}
		return l.noteCovered(i, prefixes)
	})
}

// ofOthers are those of the prefixes that the policy in force or a feed names, and who names the first.
func (l list) ofOthers(i instance, prefixes []netip.Prefix) (named []netip.Prefix, by datapath.Entry, err error) {
	for _, p := range prefixes {
		e, err := i.Listed(l.id, p)
		if err != nil {
			return nil, by, err
		}
		if e == nil || e.Origin == originOperator {
			continue
		}
		if named = append(named, p); len(named) == 1 {
			by = *e
		}
	}
	return named, by, nil
}

// staysByOthers is the error of a command that could not do all it was asked for.
func (l list) staysByOthers(stay, asked []netip.Prefix, by datapath.Entry, removed int) error {
	if removed > 0 {
		l.say("%d of %d prefixes: what was added by hand is off the %s", removed, len(asked), l.title)
	}
	is, it := "is", "it"
	if len(stay) > 1 {
		is, it = "are", "them"
	}
	if name, ok := datapath.FeedOfOrigin(by.Origin); ok {
		return fmt.Errorf("%s %s on the %s by feed %s; to change that, load the feed without %s, or take it off: %s feed rm %[4]s", subject(stay), is,
			l.title, name, it, l.program())
	}
	return fmt.Errorf("%s %s on the %s by the policy in force; to change that, apply a policy without %s", subject(stay), is, l.title, it)
}

// noteCovered says which of the removed prefixes a wider entry of the same list still covers.
func (l list) noteCovered(i instance, prefixes []netip.Prefix) error {
	reason := map[datapath.List]string{datapath.Allow: "allowed", datapath.Block: "blocked"}[l.id]
	for _, p := range prefixes[:min(len(prefixes), maxNotes)] {
		by, err := i.Covering(l.id, p.Addr())
		if err != nil {
			return err
		}
		if by == nil || by.Prefix.Bits() >= p.Bits() {
			continue
		}
		allowed, err := i.Covering(datapath.Allow, p.Addr())
		if err != nil {
			return err
		}
		if l.id == datapath.Allow || allowed == nil {
			l.say("note: %s is still %s by %s; to change that: %s", policy.FormatPrefix(p), reason, inWords(*by), l.wayOff(l.name, *by))
		}
	}
	return nil
}

func (l list) listCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use: "list", Short: "Show the " + l.title, Args: noArgs,
		Long: "Show the " + l.title + ". With -o plain it is one prefix a line, for add, rm or feed load to take" +
			map[datapath.List]string{datapath.Allow: " again.", datapath.Block: "\nagain, without bans."}[l.id],
		RunE: l.asRoot(func(*cobra.Command, []string) error { return l.show(output) }),
	}
	outputFlag(cmd, &output, formatText, formatJSON, formatPlain)
	return cmd
}

func (l list) show(output format) error {
	shown := report.Entries{Now: l.now(), List: l.id}
	err := l.read(func(i instance) (err error) {
		shown.Entries, err = i.Entries(l.id)
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case output == formatJSON:
		return shown.JSON(l.stdout)
	case output == formatPlain:
		if n := shown.Bans(); n > 0 {
			l.say("note: bans are left out, which end by themselves (%d); -o text or json shows them", n)
		}
		return shown.Plain(l.stdout)
	case len(shown.Entries) == 0:
		l.say("the %s is empty", l.title)
		return nil
	}
	return shown.Text(l.stdout)
}

// subject names what a command did something to.
func subject(prefixes []netip.Prefix) string {
	if len(prefixes) == 1 {
		return policy.FormatPrefix(prefixes[0])
	}
	return fmt.Sprintf("%d prefixes", len(prefixes))
}

// parsePrefixes reads all arguments before anything is changed; what is given twice counts once.
func parsePrefixes(args []string) ([]netip.Prefix, error) {
	seen := make(map[netip.Prefix]bool, len(args))
	prefixes := make([]netip.Prefix, 0, len(args))
	for _, arg := range args {
		p, err := policy.ParsePrefix(arg)
		if err != nil {
			return nil, err
		}
		if !seen[p] {
			seen[p] = true
			prefixes = append(prefixes, p)
		}
	}
	return prefixes, nil
}
