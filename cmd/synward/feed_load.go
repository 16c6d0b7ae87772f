// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/feed"
	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/report"
)

// listName is a list as it is typed.
type listName string

const (
	listBlock listName = "block"
	listAllow listName = "allow"
)

type feedFlags struct {
	list       listName
	scope      datapath.Scope
	forHowLong string
	strict     bool
	force      bool
}

func newFeedLoadCmd(e *env) *cobra.Command {
	var f feedFlags
	cmd := &cobra.Command{
		Use: "load NAME FILE", Short: "Load a list under a name, in place of what that feed held before",
		Long: "Load a list under a name. What the feed held before is replaced by what differs: first what is new is added,\n" +
			"then what is gone is removed. Other feeds, and what operators and policies name, stay.\n\n" +
			"FILE has an address or a prefix a line; # and ; begin a comment. FireHOL netsets, Spamhaus DROP (text and JSON\n" +
			"lines) and IP,mask,wl|bl,category are recognised, and gzip is unpacked. - reads standard input.\n\n" +
			"Lines that cannot be read are named and skipped, and so is what would block this host, its gateways or\n" +
			"resolvers, or somebody who is logged in by SSH: exit code 4. A feed that is empty, or shrinks by more than half,\n" +
			"is refused: exit code 5.",
		Example: "  synward feed load spamhaus-drop drop_v4.json\n  curl -s https://example.com/list.txt | synward feed load example -",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("feed load takes a name and a file: %s", cmd.UseLine())
			}
			return checkFeedName(args[0])
		},
		RunE: e.asRoot(func(_ *cobra.Command, args []string) error { return runFeedLoad(e, args[0], args[1], f) }),
	}
	choiceFlag(cmd.Flags(), &f.list, "list", "", "list to put it on", listBlock, listAllow)
	choiceFlag(cmd.Flags(), &f.scope, "scope", "", "packets to drop, new connections or all", datapath.ScopeAll, datapath.ScopeNew)
	cmd.Flags().StringVar(&f.forHowLong, "for", "", "`TIME` after which it ends unless it is loaded again, as in 12h (default: never)")
	cmd.Flags().BoolVar(&f.strict, "strict", false, "refuse the whole file for one line that cannot be read")
	cmd.Flags().BoolVar(&f.force, "force", false, "go on even if it is empty, shrinks, blocks this host or locks somebody out")
	return cmd
}

func runFeedLoad(e *env, name, file string, f feedFlags) error {
	model := datapath.Feed{Name: name, List: datapath.Block, Scope: f.scope, Loaded: e.now(), By: e.operator()}
	if f.list == listAllow {
		model.List = datapath.Allow
		if f.scope != datapath.ScopeAll {
			return usagef("--scope is for the block list; leave it out with --list allow")
		}
	}
	if f.forHowLong != "" {
		d, err := policy.ParseDuration(f.forHowLong)
		if err != nil {
			return err
		}
		model.Expires = model.Loaded.Add(d)
	}
	c, err := e.readFeed(file, model.List)
	if err != nil {
		return err
	}
	l := feedLoad{env: e, Feed: model, Contents: c, flags: f}
	if err := l.sayBad(); err != nil {
		return err
	}
	err = e.change(l.load)
	if err == nil && l.partly {
		return exitError{exitPartly}
	}
	return err
}

// readFeed reads a list before anything is locked: it may come by a slow pipe.
func (e *env) readFeed(file string, list datapath.List) (*feed.Contents, error) {
	if file == fromStdin {
		return e.readList("standard input", e.stdin, 0, list)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, usagef("read feed: %v", err)
	}
	defer f.Close()
	size := int64(0)
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return e.readList(file, f, size, list)
}

func (e *env) readList(name string, r io.Reader, size int64, list datapath.List) (*feed.Contents, error) {
	bar := e.bar("reading")
	c, err := feed.Read(bar.reader(r, size), list == datapath.Allow)
	bar.end()
	if err != nil {
		return nil, usagef("read feed %s: %v", name, err)
	}
	return c, nil
}

// feedLoad is one run of feed load.
type feedLoad struct {
	*env
	datapath.Feed
	*feed.Contents
	flags feedFlags
	// partly: not all that the file names is loaded.
	partly bool
}

// sayBad names the lines that cannot be read.
func (l *feedLoad) sayBad() error {
	if l.BadLines == 0 {
		return nil
	}
	for _, bad := range l.Bad {
		l.say("%v", bad)
	}
	if more := l.BadLines - len(l.Bad); more > 0 {
		l.say("... and %d more lines like these", more)
	}
	if l.flags.strict {
		return usagef("%d of %d lines cannot be read, nothing changed; mend them, or leave out --strict to skip them", l.BadLines, l.BadLines+l.Named)
	}
	l.say("%d of %d lines cannot be read and are skipped", l.BadLines, l.BadLines+l.Named)
	l.partly = true
	return nil
}

func (l *feedLoad) load(i instance) error {
	if l.List == datapath.Block && !l.flags.force {
		if err := l.leaveOut(i); err != nil {
			return err
		}
	}
	lines := l.Len()
	l.Merge()
	if l.List == datapath.Allow && !l.flags.force {
		if err := l.guardShrink(i); err != nil {
			return err
		}
	}
	bar := l.bar("loading")
	change, err := i.LoadFeed(datapath.FeedOptions{Feed: l.Feed, Set: l.Set, Shrink: l.flags.force, Progress: bar.show})
	bar.end()
	if err != nil {
		return err
	}
	l.sayChange(change, lines-l.Len())
	return nil
}

// guardShrink is a Lockout if somebody who is logged in needs what goes off the allow list.
func (l *feedLoad) guardShrink(i instance) error {
	return l.guardDisallow(i, func(e datapath.Entry) bool { return e.Origin == l.Origin() && !l.Holds(e.Prefix) })
}

// maxLeftOut is how many prefixes are named that are left out.
const maxLeftOut = 5

// leaveOut takes out what would block somebody who is protected.
func (l *feedLoad) leaveOut(i instance) error {
	all, err := l.protected(i)
	if err != nil {
		return err
	}
	var out []netip.Prefix
	for _, one := range all {
		for _, p := range l.Overlapping(one.Prefix) {
			if slices.Contains(out, p) {
				continue
			}
			if out = append(out, p); len(out) <= maxLeftOut {
				l.say("left out: %s, which covers %s (%s); to load it all the same: --force", policy.FormatPrefix(p), policy.FormatPrefix(one.Prefix), one.What)
			}
		}
	}
	if more := len(out) - maxLeftOut; more > 0 {
		l.say("... and %d more prefixes that cover this host or somebody who is logged in", more)
	}
	l.partly = l.partly || len(out) > 0
	l.Remove(out)
	return nil
}

// sayChange says what was done.
func (l *feedLoad) sayChange(c datapath.FeedChange, merged int) {
	words := []string{fmt.Sprintf("%d added", c.Added), fmt.Sprintf("%d removed", c.Removed), fmt.Sprintf("%d stay", c.Kept)}
	if merged > 0 {
		words = append(words, fmt.Sprintf("%d lay inside of others", merged))
	}
	l.say("feed %s: %s on the %s list (%s), expires %s", l.Name, counted(c.Added+c.Kept), l.List, strings.Join(words, ", "),
		report.Until(l.Loaded, l.Expires))
	if l.Others > 0 {
		l.say("note: %d lines are marked for the %s list and are left out; to load them: %s feed load OTHER-NAME FILE --list %[2]s",
			l.Others, map[datapath.List]listName{datapath.Block: listAllow, datapath.Allow: listBlock}[l.List], l.program())
	}
	if c.Left == 0 {
		return
	}
	l.partly = true
	for _, p := range c.Unfit {
		l.say("no room: %s", policy.FormatPrefix(p))
	}
	l.say("%d prefixes found no room on the %s list", c.Left, l.List)
}
