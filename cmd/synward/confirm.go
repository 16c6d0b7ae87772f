// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/report"
)

func newConfirmCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "confirm",
		Short: "Keep what was applied or attached with --confirm",
		Long: "Keep the policy and the interfaces that wait for a confirmation. Exit code 1 if nothing does: it was\n" +
			"confirmed before, or its time is over and the policy before it is back.",
		Example:           "  synward apply -f policy.yaml --confirm 60s\n  synward confirm",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: e.asRoot(func(*cobra.Command, []string) error {
			return e.change(func(i instance) error { return runConfirm(e, i) })
		}),
	}
}

func runConfirm(e *env, i instance) error {
	before, err := i.Interfaces()
	if err != nil {
		return err
	}
	waited, err := i.Policy()
	if err != nil {
		return err
	}
	found, err := i.Confirm()
	if err != nil {
		return err
	}
	if !found {
		return nothingWaits(e, i)
	}
	for _, one := range before {
		if one.Unconfirmed {
			e.say("%s: confirmed, it stays", one.Name)
		}
	}
	if waited.Pending != nil {
		e.say("generation %d: confirmed, it stays", waited.Generation)
	}
	return tellPolicy(e, i)
}

// nothingWaits is an error, for whoever comes too late must know.
func nothingWaits(e *env, i instance) error {
	kept, err := i.Kept()
	if err != nil {
		return err
	}
	if len(kept) == 0 {
		return fmt.Errorf("nothing waits for a confirmation")
	}
	return fmt.Errorf("nothing waits for a confirmation; in force is generation %d, applied by %s %s",
		kept[0].Generation, kept[0].By, report.Ago(e.now(), kept[0].At))
}
