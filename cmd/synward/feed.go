// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/feed"
	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/report"
)

func newFeedCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use: "feed", Short: "Put lists that others publish on the block or the allow list",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("feed needs a verb: load, list or rm")
			}
			return knownCommand(cmd, args)
		},
		// Without it cobra would show help instead of asking Args.
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.AddCommand(newFeedLoadCmd(e), newFeedListCmd(e), newFeedRmCmd(e))
	return cmd
}

func newFeedListCmd(e *env) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use: "list", Short: "Show the feeds", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: e.asRoot(func(*cobra.Command, []string) error { return runFeedList(e, output) }),
	}
	outputFlag(cmd, &output, formatText, formatJSON)
	return cmd
}

func runFeedList(e *env, output format) error {
	shown := report.Feeds{Now: e.now()}
	err := e.read(func(i instance) (err error) {
		shown.Feeds, err = i.Feeds()
		return err
	})
	switch {
	case err != nil:
		return err
	case output == formatJSON:
		return shown.JSON(e.stdout)
	case len(shown.Feeds) == 0:
		e.say("there are no feeds")
		return nil
	}
	return shown.Text(e.stdout)
}

func newFeedRmCmd(e *env) *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use: "rm NAME", Short: "Take a feed off its list",
		Long: "Take a feed off its list, all of it at one moment. What others name too stays for them.",
		Args: oneArg("the name of a feed"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: e.asRoot(func(_ *cobra.Command, args []string) error { return runFeedRm(e, args[0], force) }),
	}
	forceFlag(cmd, &force)
	return cmd
}

func runFeedRm(e *env, name string, force bool) error {
	if err := checkFeedName(name); err != nil {
		return err
	}
	return e.change(func(i instance) error {
		if !force {
			origin := datapath.Feed{Name: name}.Origin()
			if err := e.guardDisallow(i, func(entry datapath.Entry) bool { return entry.Origin == origin }); err != nil {
				return err
			}
		}
		entries, found, err := i.RemoveFeed(name)
		switch {
		case err != nil:
			return err
		case !found:
			e.say("there is no feed %s, nothing changed", name)
		default:
			e.say("feed %s: removed, %s", name, counted(entries))
		}
		return nil
	})
}

func checkFeedName(name string) error {
	if err := feed.CheckName(name); err != nil {
		return fmt.Errorf("%w %w", policy.ErrInvalid, err)
	}
	return nil
}
