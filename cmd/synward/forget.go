// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func newForgetCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "forget ADDR",
		Short: "Let one source begin afresh, with a whole burst",
		Long: "Let one source begin afresh: what it used up of its limits, what was counted of it, its strikes and bans.\n" +
			"An entry that somebody put on the block list stays. An IPv6 address stands for its /64.",
		Args: oneArg("an address"),
		RunE: e.asRoot(func(_ *cobra.Command, args []string) error {
			addr, err := parseSource(args[0])
			if err != nil {
				return err
			}
			return e.change(func(i instance) error {
				if err := i.Forget(addr); err != nil {
					return err
				}
				e.say("%s: begins afresh", addr)
				return nil
			})
		}),
	}
}
