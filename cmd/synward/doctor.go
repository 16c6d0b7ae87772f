// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/report"
)

func newDoctorCmd(e *env) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "doctor [IFACE]",
		Short: "Say what this kernel and an interface can do",
		Long: "Say what this kernel, and an interface if one is named, can do, and how to mend what they cannot.\n" +
			"It changes nothing. Exit code 1 if something is missing.",
		Args:              atMostOneArg,
		ValidArgsFunction: completeInterfaces,
		RunE: e.asRoot(func(_ *cobra.Command, args []string) error {
			ifname := ""
			if len(args) > 0 {
				ifname = args[0]
			}
			return runDoctor(e, ifname, output)
		}),
	}
	outputFlag(cmd, &output, formatText, formatJSON)
	return cmd
}

func runDoctor(e *env, ifname string, output format) error {
	findings := report.Findings(e.kernel.Doctor(e.pinDir, ifname))
	write := findings.Text
	if output == formatJSON {
		write = findings.JSON
	}
	if err := write(e.stdout); err != nil {
		return err
	}
	if !findings.OK() {
		return exitError{exitFailed}
	}
	return nil
}
