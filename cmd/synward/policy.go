// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/report"
)

const formatYAML format = "yaml"

type policyFlags struct {
	list   bool
	output format
}

func newPolicyCmd(e *env) *cobra.Command {
	var f policyFlags
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Show the policy in force, as a file that can be applied again",
		Long: "Show the policy in force, as a file that `synward apply` makes the same policy of. Lists that came from files\n" +
			"are written out. Behind each limit stands how much it lets through in the worst window.\n\n" +
			"With --list it shows the policies that are kept for `synward rollback`.",
		Example:           "  synward policy >policy.yaml\n  synward policy --list",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              e.asRoot(func(cmd *cobra.Command, _ []string) error { return runPolicy(e, cmd, f) }),
	}
	cmd.Flags().BoolVar(&f.list, "list", false, "the policies that can be gone back to, as a table")
	outputFlag(cmd, &f.output, formatYAML, formatJSON)
	return cmd
}

func runPolicy(e *env, cmd *cobra.Command, f policyFlags) error {
	if f.list && f.output == formatYAML && cmd.Flags().Changed("output") {
		return usagef("--list writes a table, or -o json")
	}
	return e.read(func(i instance) error {
		p, err := i.Policy()
		if err != nil {
			return err
		}
		text := report.PolicyText{Policy: p}
		write := text.YAML
		if f.output == formatJSON {
			write = text.JSON
		}
		if f.list {
			kept := report.Kept{Now: e.now()}
			if kept.Policies, err = i.Kept(); err != nil {
				return err
			}
			if write = kept.Text; f.output == formatJSON {
				write = kept.JSON
			}
		}
		if err := write(e.stdout); err != nil {
			return err
		}
		if p.Pending != nil {
			e.say("%s", report.Pending(p.Pending))
		}
		return nil
	})
}
