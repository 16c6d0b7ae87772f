// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/report"
)

func newServicesCmd(e *env) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "services",
		Short: "Show the services, what was admitted, and what was over each limit",
		Long: "Show the services of the policy in force: where each listens, how many new connections (of UDP, packets) were\n" +
			"admitted, its limits, and how many packets were over each of them, refused or only observed.",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              e.asRoot(func(*cobra.Command, []string) error { return runServices(e, output) }),
	}
	outputFlag(cmd, &output, formatText, formatJSON)
	return cmd
}

func runServices(e *env, output format) error {
	var shown report.Services
	err := e.read(func(i instance) (err error) {
		shown.Services, err = i.Services()
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case output == formatJSON:
		return shown.JSON(e.stdout)
	case len(shown.Services) == 0:
		e.say("the policy has no services")
		return nil
	}
	return shown.Text(e.stdout)
}

// completeServices offers the services of the policy in force to the shell.
func completeServices(e *env) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if dir := cmd.Flag("pin-dir"); dir != nil {
			e.pinDir = dir.Value.String()
		}
		var names []string
		err := e.read(func(i instance) error {
			p, err := i.Policy()
			if err != nil {
				return err
			}
			for _, s := range p.Policy.Services {
				names = append(names, s.Name)
			}
			return nil
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
