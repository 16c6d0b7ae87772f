// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func newSaveCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "save",
		Short: "Save all that a reboot would lose",
		Long: "Save interfaces, policies and lists, for `synward restore`. Every command that changes something does so by\n" +
			"itself before it ends; this saves what the kernel did since, and what could not be saved then.",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              e.asRoot(func(*cobra.Command, []string) error { return runSave(e) }),
	}
}

func runSave(e *env) error {
	if err := e.kernel.Save(e.pinDir, e.store()); err != nil {
		return err
	}
	e.say("saved in %s", e.stateDir())
	return nil
}
