// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

func newLimitCmd(e *env) *cobra.Command {
	var f limitFlags
	cmd := &cobra.Command{
		Use:   "limit SERVICE",
		Short: "Change the limit of a service while it runs",
		Long: "Change the limit of a service in one step: no packet passes between the old and the new one.\n" +
			"There is one service without a policy file: default, all TCP ports.",
		Example: "  synward limit default --new 100/s --burst 200\n  synward limit default --burst 50\n" +
			"  synward limit default --new off",
		Args: oneArg("a service"),
		ValidArgsFunction: cobra.FixedCompletions([]string{datapath.DefaultService},
			cobra.ShellCompDirectiveNoFileComp),
		RunE: e.asRoot(func(cmd *cobra.Command, args []string) error { return runLimit(e, cmd, args[0], f) }),
	}
	f.add(cmd.Flags(), "`RATE` of new connections of one source, as in 50/s, 3/min or 2k/h; off takes the limit away")
	return cmd
}

func runLimit(e *env, cmd *cobra.Command, service string, f limitFlags) error {
	change, err := f.change(cmd, service)
	if err != nil {
		return err
	}
	return e.change(func(i instance) error {
		before, err := i.Policy()
		if err != nil {
			return err
		}
		after, err := change(before.Limit)
		if err != nil {
			return err
		}
		if same(before.Limit, after) {
			e.say("already so, nothing changed")
		} else if err := i.SetLimit(after); err != nil {
			return err
		}
		return tellPolicy(e, i)
	})
}

// change turns the flags into the step from the limit in force to the next. All that can be found
// wrong without looking at what is in force is found here.
func (l limitFlags) change(cmd *cobra.Command, service string) (func(*policy.NewLimit) (*policy.NewLimit, error), error) {
	flags := cmd.Flags()
	switch {
	case service != datapath.DefaultService:
		return nil, usagef("there is no service %q; the only one is %s", service, datapath.DefaultService)
	case !flags.Changed("new") && !flags.Changed("burst"):
		return nil, usagef("nothing to change: give --new RATE, --burst N or --new off")
	case flags.Changed("new") && (l.rate == "off" || l.rate == "none"):
		if flags.Changed("burst") {
			return nil, usagef("--new %s takes the limit away; leave out --burst", l.rate)
		}
		return func(*policy.NewLimit) (*policy.NewLimit, error) { return nil, nil }, nil
	case flags.Changed("new"):
		limit, err := l.parse(flags)
		return func(*policy.NewLimit) (*policy.NewLimit, error) { return limit, nil }, err
	}
	return l.onlyBurst, nil
}

// onlyBurst keeps the rate that is in force.
func (l limitFlags) onlyBurst(before *policy.NewLimit) (*policy.NewLimit, error) {
	if before == nil {
		return nil, fmt.Errorf("%w burst %d: no limit is in force whose rate it could keep; give --new RATE too",
			policy.ErrInvalid, l.burst)
	}
	after := policy.NewLimit{Rate: before.Rate, Burst: l.burst}
	return &after, after.Validate()
}

func same(a, b *policy.NewLimit) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
