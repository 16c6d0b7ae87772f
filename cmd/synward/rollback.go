// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

func newRollbackCmd(e *env) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rollback [N]",
		Short: "Put the policy back that was in force before, or N policies ago",
		Long: "Put the policy back that was in force before the one that is now, or N policies ago; `synward policy --list`\n" +
			"numbers them. A policy that waits for its confirmation goes at once. Like any other, one that would lock out\n" +
			"somebody who is logged in by SSH is refused (exit code 5).",
		Example:           "  synward rollback\n  synward policy --list && synward rollback 3",
		Args:              atMostOneArg,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: e.asRoot(func(_ *cobra.Command, args []string) error {
			n := 1
			if len(args) > 0 {
				var err error
				if n, err = strconv.Atoi(args[0]); err != nil || n < 1 {
					return usagef("cannot go back %q policies; write a whole number, 1 or more", args[0])
				}
			}
			return e.change(func(i instance) error { return runRollback(e, i, n, force) })
		}),
	}
	forceFlag(cmd, &force)
	return cmd
}

func runRollback(e *env, i instance, n int, force bool) error {
	before, err := i.Policy()
	if err != nil {
		return err
	}
	kept, err := i.Kept()
	if err != nil {
		return err
	}
	if target := rollbackTarget(kept, before.Pending, n); target != nil && !force {
		if err := e.guardPolicy(i, target); err != nil {
			return err
		}
	}
	after, err := i.Rollback(n, e.operator())
	if err != nil {
		return err
	}
	tellChanges(e, before.Policy, after)
	return tellPolicy(e, i)
}

// rollbackTarget is the policy that would come back, nil if there is none.
func rollbackTarget(kept []datapath.Applied, pending *datapath.Pending, n int) *policy.Policy {
	if pending != nil && n == 1 {
		n = slices.IndexFunc(kept, func(a datapath.Applied) bool { return a.Generation == pending.Fallback })
	}
	if n < 1 || n >= len(kept) {
		return nil
	}
	return kept[n].Policy
}
