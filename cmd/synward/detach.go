// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
)

func newDetachCmd(e *env) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "detach IFACE | --all",
		Short: "Take the limiter off an interface",
		Long: "Take the limiter off an interface. With the last one go the limits, the lists and the counts.\n" +
			"What synward did not attach is left alone.",
		Args: func(cmd *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return usagef("give an interface or --all, not both")
			}
			if all {
				return nil
			}
			return oneArg("an interface or --all")(cmd, args)
		},
		ValidArgsFunction: completeInterfaces,
		RunE: e.asRoot(func(_ *cobra.Command, args []string) error {
			if all {
				return runDetachAll(e)
			}
			return runDetach(e, args[0])
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "every interface, in every network namespace")
	cmd.Flags().SortFlags = false
	return cmd
}

func runDetach(e *env, ifname string) error {
	found, err := e.kernel.Detach(e.pinDir, ifname)
	if err != nil && !errors.Is(err, datapath.ErrNotAttached) {
		return err
	}
	if !found {
		e.say("%s: was not attached, nothing changed", ifname)
		return nil
	}
	e.say("%s: detached", ifname)
	return nil
}

func runDetachAll(e *env) error {
	names, err := e.kernel.DetachAll(e.pinDir)
	if err != nil && !errors.Is(err, datapath.ErrNotAttached) {
		return err
	}
	if len(names) == 0 {
		e.say("nothing was attached, nothing changed")
		return nil
	}
	e.say("%s: detached", strings.Join(names, ", "))
	return nil
}
