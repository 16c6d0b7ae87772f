// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/report"
)

// minInterval keeps the reading from costing more than what is read.
const minInterval = 100 * time.Millisecond

type statsFlags struct {
	interval string
	count    uint
	output   format
}

func newStatsCmd(e *env) *cobra.Command {
	var f statsFlags
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show packets by reason, once or as rates",
		Long: "Show the packets and bytes by reason and action. With --interval it shows the rate over each interval;\n" +
			"as JSON it writes one line for each, with what was counted from `since` to `time`.",
		Args: noArgs,
		RunE: e.asRoot(func(cmd *cobra.Command, _ []string) error { return runStats(e, cmd, f) }),
	}
	cmd.Flags().StringVar(&f.interval, "interval", "", "`TIME` between two looks, as in 1s (default: one look)")
	cmd.Flags().UintVar(&f.count, "count", 0, "stop after `N` intervals; 0 goes on until it is interrupted")
	outputFlag(cmd, &f.output, formatText, formatJSON)
	return cmd
}

func runStats(e *env, cmd *cobra.Command, f statsFlags) error {
	if f.interval == "" {
		if cmd.Flags().Changed("count") {
			return usagef("--count needs --interval beside it, as in --interval 1s --count %d", f.count)
		}
		stats, err := readStats(e)
		if err != nil {
			return err
		}
		return writeStats(e, stats, f.output)
	}
	interval, err := policy.ParseDuration(f.interval)
	if err != nil {
		return err
	}
	if interval < minInterval {
		return usagef("--interval %s is too short; use at least %s", f.interval, minInterval)
	}
	return repeatStats(cmd.Context(), e, interval, f)
}

// repeatStats writes what moved in each interval. Between two looks nothing is locked.
func repeatStats(ctx context.Context, e *env, interval time.Duration, f statsFlags) error {
	before, err := readStats(e)
	if err != nil {
		return err
	}
	ticks, stop := e.tick(interval)
	defer stop()
	for n := uint(0); f.count == 0 || n < f.count; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks:
		}
		after, err := readStats(e)
		if err != nil {
			return err
		}
		moved := report.Stats{Since: before.At, At: after.At, Totals: report.Between(before.Totals, after.Totals)}
		if err := writeStats(e, moved, f.output); err != nil {
			return err
		}
		before = after
	}
	return nil
}

func readStats(e *env) (report.Stats, error) {
	var stats report.Stats
	err := e.read(func(i instance) (err error) {
		stats.At = e.now()
		stats.Totals, err = i.Totals()
		return err
	})
	return stats, err
}

func writeStats(e *env, stats report.Stats, output format) error {
	if output == formatJSON {
		return stats.JSON(e.stdout)
	}
	return stats.Text(e.stdout)
}
