// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/report"
)

type checkFlags struct {
	port   uint
	output format
}

func newCheckCmd(e *env) *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check ADDR",
		Short: "Say whether a new connection of an address would pass now",
		Long: "Say whether a new connection of an address would pass now, and if not: why, until when, and the command\n" +
			"that lets it in. It changes nothing. Exit code 6 if it would be refused.",
		Args: oneArg("an address"),
		RunE: e.asRoot(func(cmd *cobra.Command, args []string) error { return runCheck(e, cmd, args[0], f) }),
	}
	cmd.Flags().UintVar(&f.port, "port", 0, "TCP `PORT` that it would connect to (default: any; all ports are one service)")
	outputFlag(cmd, &f.output, formatText, formatJSON)
	return cmd
}

func runCheck(e *env, cmd *cobra.Command, arg string, f checkFlags) error {
	addr, err := parseSource(arg)
	if err != nil {
		return err
	}
	if cmd.Flags().Changed("port") && (f.port == 0 || f.port > math.MaxUint16) {
		return usagef("there is no port %d; use 1 to %d", f.port, math.MaxUint16)
	}
	answer := report.Check{Now: e.now(), Addr: addr, Program: e.program()}
	err = e.read(func(i instance) (err error) {
		if answer.Policy, err = i.Policy(); err != nil {
			return err
		}
		answer.Verdict, err = i.Check(addr)
		return err
	})
	if err != nil {
		return err
	}
	write := answer.Text
	if f.output == formatJSON {
		write = answer.JSON
	}
	if err := write(e.stdout); err != nil {
		return err
	}
	if answer.Refused() {
		return exitError{exitOver}
	}
	return nil
}
