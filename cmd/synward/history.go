// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/report"
	"github.com/synward/synward/pkg/state"
)

type historyFlags struct {
	since  string
	count  uint
	output format
}

func newHistoryCmd(e *env) *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show who changed what and when",
		Long: "Show the commands that changed something, the oldest first: when, who (behind sudo, and where he was logged in\n" +
			"from by SSH), and the generation of the policy before and after. It is read from the audit log in\n" +
			state.AuditDir + ", or $" + logDirVariable + ", also from what was rotated. What the kernel does by itself is not in\n" +
			"it: blocks that end, and policies that nobody confirmed.",
		Example:           "  synward history --count 20\n  synward history --since 1d -o json",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              e.asRoot(func(*cobra.Command, []string) error { return runHistory(e, f) }),
	}
	cmd.Flags().StringVar(&f.since, "since", "", "`TIME` to look back, as in 1h or 7d (default: all that is kept)")
	cmd.Flags().UintVar(&f.count, "count", 0, "only the last `N` changes")
	outputFlag(cmd, &f.output, formatText, formatJSON)
	return cmd
}

func runHistory(e *env, f historyFlags) error {
	shown := report.History{Now: e.now()}
	var since time.Time
	if f.since != "" {
		back, err := policy.ParseDuration(f.since)
		if err != nil {
			return err
		}
		since = shown.Now.Add(-back)
	}
	entries, skipped, err := state.ReadAudit(e.auditDir(), since, int(f.count))
	for _, name := range skipped.Names {
		e.say("warning: skipped %s", name)
	}
	if more := skipped.Lines - len(skipped.Names); more > 0 {
		e.say("warning: skipped %d more lines", more)
	}
	shown.Entries = entries
	switch {
	case f.output == formatJSON:
		return errors.Join(shown.JSON(e.stdout), err)
	case len(entries) == 0 && err == nil:
		e.say("nothing was changed")
		return nil
	}
	return errors.Join(shown.Text(e.stdout), err)
}
