// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/report"
)

type applyFlags struct {
	file    string
	diff    bool
	confirm confirmFlag
	force   bool
	sysctl  bool
}

func newApplyCmd(e *env) *cobra.Command {
	var f applyFlags
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Put a policy file in force, in one step",
		Long: "Put a policy file in force, in one step: every packet is judged by the old policy or by the new one. Limits\n" +
			"that stay the same keep their levels and counts. A file with a mistake changes nothing: exit code 2.\n\n" +
			"With --confirm the kernel goes back to the policy before it when the time is over, whether or not any\n" +
			"process lives then, unless `synward confirm` is typed first. Until then no other policy can be applied.\n\n" +
			"A policy that would lock out somebody who is logged in by SSH is refused (exit code 5).\n" +
			"Lists that the file names ({file: PATH}) are read now, from the directory of the file.",
		Example: "  synward apply -f policy.yaml --diff\n  synward apply -f policy.yaml --confirm 60s && synward confirm\n" +
			"  generate-policy | synward apply -f -",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("name the policy with -f: %s -f %s", cmd.CommandPath(), args[0])
			}
			if f.file == "" {
				return usagef("apply needs a policy: %s", cmd.UseLine())
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              e.asRoot(func(cmd *cobra.Command, _ []string) error { return runApply(e, f) }),
	}
	fileFlag(cmd, &f.file)
	cmd.Flags().BoolVar(&f.diff, "diff", false, "only show what would change; nothing if nothing would")
	f.confirm.add(cmd.Flags(), "`TIME` after which the policy before comes back unless confirmed, as in 60s")
	forceFlag(cmd, &f.force)
	sysctlFlag(cmd, &f.sysctl)
	return cmd
}

func runApply(e *env, f applyFlags) error {
	confirm, err := f.confirm.parse()
	if err != nil {
		return err
	}
	next, err := e.readPolicy(f.file)
	if err != nil {
		return err
	}
	if f.diff {
		return e.read(func(i instance) error { return showDiff(e, i, next) })
	}
	return e.change(func(i instance) error {
		before, changed, err := applyPolicy(e, i, next, confirm, f.force)
		if err != nil {
			return err
		}
		if changed {
			tellChanges(e, before, next)
		}
		if f.sysctl {
			if err := setSysctls(e, i); err != nil {
				return err
			}
		}
		return tellPolicy(e, i)
	})
}

// showDiff writes the difference to what is in force.
func showDiff(e *env, i instance, next *policy.Policy) error {
	before, err := i.Policy()
	if err != nil {
		return err
	}
	for _, change := range policy.Diff(before.Policy, next) {
		if _, err := fmt.Fprintln(e.stdout, change); err != nil {
			return err
		}
	}
	return nil
}

// applyPolicy puts a policy in force, unless it is, or would lock somebody out. It returns the one before.
func applyPolicy(
	e *env, i instance, next *policy.Policy, confirm time.Duration, force bool,
) (before *policy.Policy, changed bool, err error) {
	p, err := i.Policy()
	if err != nil {
		return nil, false, err
	}
	// What waits for its confirmation is not so already: the data path says who must confirm it first.
	if p.Pending == nil {
		if next.Equal(p.Policy) {
			e.say("already so, nothing changed")
			return p.Policy, false, nil
		}
		if !force {
			if err := e.guardPolicy(i, next); err != nil {
				return nil, false, err
			}
		}
	}
	return p.Policy, true, i.Apply(datapath.ApplyOptions{Policy: next, Confirm: confirm, By: e.operator()})
}

func tellChanges(e *env, before, after *policy.Policy) {
	for _, change := range policy.Diff(before, after) {
		e.say("%s", change)
	}
}

// tellPolicy says what is in force, and what must be done for it to stay.
func tellPolicy(e *env, i instance) error {
	p, err := i.Policy()
	if err != nil {
		return err
	}
	for _, line := range report.InForce(p) {
		e.say("%s", line)
	}
	if p.Pending != nil {
		e.say("%s; to keep it: %s confirm; to go back now: %[2]s rollback", report.Pending(p.Pending), e.program())
	}
	return nil
}

// setSysctls sets what challenges need, and says what it was before.
func setSysctls(e *env, i instance) error {
	changed, err := i.SetSysctls()
	for _, u := range changed {
		name := u.Interface
		if u.Netns != "" {
			name += " in " + u.Netns
		}
		e.say("%s: set %s=%s, it was %s; to keep it over a reboot, write it to /etc/sysctl.d", name, u.Sysctl, u.Needs, u.Is)
	}
	if err != nil {
		return fmt.Errorf("the policy is in force; %w", err)
	}
	return nil
}
