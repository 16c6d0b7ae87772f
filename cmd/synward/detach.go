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
				return runDetach(e, "")
			}
			return runDetach(e, args[0])
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "every interface, in every network namespace")
	cmd.Flags().SortFlags = false
	return cmd
}

// runDetach takes the limiter off one interface, or off all without a name.
func runDetach(e *env, ifname string) error {
	done, err := e.kernel.Detach(datapath.DetachOptions{PinDir: e.pinDir, Interface: ifname, Keeper: e.store()})
	if err != nil && !errors.Is(err, datapath.ErrNotAttached) && !errors.Is(err, datapath.ErrUnkept) {
		return err
	}
	if len(done.Names) > 0 {
		e.say("%s: detached", strings.Join(done.Names, ", "))
	}
	for _, place := range done.Dismissed {
		name := place.String()
		if ifname != "" {
			name = ifname // it is of this network namespace
		}
		e.say("%s: was not attached, and is no longer attached at the next restore", name)
	}
	if errors.Is(err, datapath.ErrUnkept) {
		return err
	}
	if len(done.Names) == 0 && len(done.Dismissed) == 0 {
		what := "nothing was attached"
		if ifname != "" {
			what = ifname + ": was not attached"
		}
		e.say("%s, nothing changed", what)
	}
	return nil
}
