// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/report"
)

type changeFlags struct {
	limit limitFlags
	force bool
}

func newLimitCmd(e *env) *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{
		Use:   "limit SERVICE",
		Short: "Change the limit of a service while it runs",
		Long: "Change the limit of new connections per source of a service, or of those that one source may have open\n" +
			"(the first if it has several), in one step: no packet passes between the old and the new one. A limit of open\n" +
			"connections that is lowered closes none. The rest of the policy stays. Without a policy file there is\n" +
			"one service: default, all TCP ports.\n\n" +
			"A limit that would lock out somebody who is logged in by SSH is refused (exit code 5).",
		Example: "  synward limit default --new 100/s --burst 200\n  synward limit web --burst 50\n" +
			"  synward limit web --concurrent 50\n  synward limit web --new off",
		Args:              oneArg("a service"),
		ValidArgsFunction: completeServices(e),
		RunE:              e.asRoot(func(cmd *cobra.Command, args []string) error { return runLimit(e, cmd, args[0], f) }),
	}
	f.limit.add(cmd.Flags(), "`RATE` of new connections of one source, as in 50/s, 3/min or 2k/h; off takes the limit away",
		"`N` connections that one source may have open at a time; off takes the limit away")
	forceFlag(cmd, &f.force)
	return cmd
}

func runLimit(e *env, cmd *cobra.Command, service string, f changeFlags) error {
	change, err := f.limit.change(cmd)
	if err != nil {
		return err
	}
	return e.change(func(i instance) error {
		before, err := i.Policy()
		if err != nil {
			return err
		}
		if err := knownService(before.Policy, service); err != nil {
			return err
		}
		next, err := policy.WithLimit(before.Policy, service, change)
		if err != nil {
			return err
		}
		_, changed, err := applyPolicy(e, i, next, 0, f.force)
		if err != nil {
			return err
		}
		if _, alone := report.OnlyLimit(next); changed && !alone {
			tellChanges(e, before.Policy, next)
		}
		return tellPolicy(e, i)
	})
}

// knownService refuses the name of another service than the only one that there is; where there are more,
// package policy names them.
func knownService(p *policy.Policy, name string) error {
	if len(p.Services) != 1 || slices.ContainsFunc(p.Services, func(s policy.Service) bool { return s.Name == name }) {
		return nil
	}
	return usagef("there is no service %q; the only one is %s", name, p.Services[0].Name)
}

// change turns the flags into a change. All that can be found wrong without looking at what is in force is
// found here.
func (l limitFlags) change(cmd *cobra.Command) (policy.LimitChange, error) {
	flags := cmd.Flags()
	var change policy.LimitChange
	var err error
	if change.ConcurrentOff = isOff(l.concurrent); !change.ConcurrentOff {
		if change.Concurrent, err = l.parseConcurrent(flags); err != nil {
			return policy.LimitChange{}, err
		}
	}
	switch {
	case !flags.Changed("new") && !flags.Changed("burst") && !flags.Changed("concurrent"):
		return policy.LimitChange{}, usagef("nothing to change: give --new RATE, --burst N, --concurrent N, or off for one of the limits")
	case isOff(l.rate):
		if flags.Changed("burst") {
			return policy.LimitChange{}, usagef("--new %s takes the limit away; leave out --burst", l.rate)
		}
		change.NewOff = true
		return change, nil
	}
	if flags.Changed("burst") {
		change.Burst = &l.burst
	}
	if flags.Changed("new") {
		limit, err := l.parse(flags)
		if err != nil {
			return policy.LimitChange{}, err
		}
		change.New = &limit.Rate
	}
	return change, nil
}
