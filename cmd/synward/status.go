// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/report"
)

func newStatusCmd(e *env) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show interfaces, policy and what was counted",
		Long: "Show the attached interfaces, whether each is armed and its traffic is judged, what is in force, and\n" +
			"the packets by reason. Exit code 4 if an interface is not armed or its traffic does not flow through.",
		Args: noArgs,
		RunE: e.asRoot(func(*cobra.Command, []string) error { return runStatus(e, output) }),
	}
	outputFlag(cmd, &output, formatText, formatJSON)
	return cmd
}

func runStatus(e *env, output format) error {
	status := report.Status{Now: e.now()}
	err := e.read(func(i instance) (err error) {
		if status.Interfaces, err = i.Interfaces(); err != nil {
			return err
		}
		if status.Policy, err = i.Policy(); err != nil {
			return err
		}
		status.Totals, err = i.Totals()
		return err
	})
	if err != nil {
		return err
	}
	write := status.Text
	if output == formatJSON {
		write = status.JSON
	}
	if err := write(e.stdout); err != nil {
		return err
	}
	if !status.Whole() {
		return exitError{exitPartly}
	}
	return nil
}
