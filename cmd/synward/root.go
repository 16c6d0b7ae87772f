// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
)

func newRootCmd(e *env) *cobra.Command {
	var pinDir string
	// Without a command the state is shown.
	cmd := newStatusCmd(e)
	cmd.Use = "synward"
	cmd.Short = "Limit new connections per source before the kernel spends anything on them"
	cmd.Long = cmd.Short + ".\n\nWithout a command it shows the state, as status does."
	cmd.Args = knownCommand
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetOut(e.stdout)
	cmd.SetErr(e.stderr)
	cmd.SetFlagErrorFunc(flagError)
	cmd.PersistentFlags().StringVar(&pinDir, "pin-dir", e.defaultPinDir(),
		"`DIR` in a bpffs that holds the instance; also $"+pinDirVariable)
	cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		return e.usePinDir(pinDir, cmd.Flags().Changed("pin-dir"))
	}
	cmd.AddCommand(
		newAttachCmd(e), newDetachCmd(e), newStatusCmd(e), newApplyCmd(e), newConfirmCmd(e), newRollbackCmd(e),
		newPolicyCmd(e), newServicesCmd(e), newLimitCmd(e), newAllowCmd(e), newBlockCmd(e), newFeedCmd(e), newSourcesCmd(e),
		newForgetCmd(e), newCheckCmd(e), newSaveCmd(e), newRestoreCmd(e), newStatsCmd(e), newDoctorCmd(e), newUpgradeCmd(e),
		newHistoryCmd(e), newVersionCmd(e),
	)
	return cmd
}

// flagError makes a usage error of what the flag package says, in words for the operator.
func flagError(_ *cobra.Command, err error) error {
	text := err.Error()
	if before, _, found := strings.Cut(text, ": strconv.ParseUint"); found {
		text = before + ": write a whole number, 0 or more"
	}
	return usageError{text}
}

// knownCommand refuses arguments of a command that has only subcommands.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	// Cobra sets its default only when it prints suggestions itself.
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef("unknown command %q; did you mean %s %s?", args[0], cmd.CommandPath(), near[0])
	}
	return usagef("unknown command %q; see %s --help", args[0], cmd.CommandPath())
}

// asRoot wraps what a command does: whoever is not root is told so before anything is touched.
func (e *env) asRoot(run func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if e.euid != 0 {
			return errors.New("must be run as root (try: sudo synward ...)")
		}
		return run(cmd, args)
	}
}
