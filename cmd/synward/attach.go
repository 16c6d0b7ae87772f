// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net"
	"slices"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/report"
)

type attachFlags struct {
	mode    datapath.Mode
	file    string
	limit   limitFlags
	confirm confirmFlag
	force   bool
	sysctl  bool
}

func newAttachCmd(e *env) *cobra.Command {
	var f attachFlags
	cmd := &cobra.Command{
		Use:   "attach IFACE",
		Short: "Put the limiter on an interface",
		Long: "Put the limiter on an interface of this network namespace. It stays when the command ends.\n\n" +
			"Without --new or -f, what is in force stays so; on the first attach new connections are counted and none is\n" +
			"refused. --new and --concurrent set limits of the service default: all TCP ports, unless a policy file says\n" +
			"otherwise.\n\n" +
			"With --confirm the interface refuses nothing any more when the time is over, and a policy that came with it\n" +
			"goes back, unless `synward confirm` is typed first. What would lock out somebody who is logged in by SSH is\n" +
			"refused (exit code 5).",
		Example: "  synward attach eth0\n  synward attach eth0 --new 50/s --burst 100 --concurrent 200\n" +
			"  synward attach eth0 -f policy.yaml --confirm 60s && synward confirm",
		Args:              oneArg("an interface"),
		ValidArgsFunction: completeInterfaces,
		RunE:              e.asRoot(func(cmd *cobra.Command, args []string) error { return runAttach(e, cmd, args[0], f) }),
	}
	choiceFlag(cmd.Flags(), &f.mode, "mode", "", "how to attach",
		datapath.ModeAuto, datapath.ModeNative, datapath.ModeGeneric, datapath.ModeTC)
	fileFlag(cmd, &f.file)
	f.limit.add(cmd.Flags(), "`RATE` of new connections of one source, as in 50/s, 3/min or 2k/h",
		"`N` connections that one source may have open at a time")
	f.confirm.add(cmd.Flags(), "`TIME` after which the interface refuses nothing unless confirmed, as in 60s")
	forceFlag(cmd, &f.force)
	sysctlFlag(cmd, &f.sysctl)
	return cmd
}

func runAttach(e *env, cmd *cobra.Command, ifname string, f attachFlags) error {
	opts, err := f.options(e, cmd, ifname)
	if err != nil {
		return err
	}
	if !f.force {
		if err := guardAttach(e, opts); err != nil {
			return err
		}
	}
	opts.Keeper = e.store()
	result, err := e.kernel.Attach(opts)
	if result == nil {
		return err
	}
	unkept := err
	tellAttach(e, ifname, result)
	if f.sysctl {
		if err := e.change(func(i instance) error { return setSysctls(e, i) }); err != nil {
			return errors.Join(unkept, err)
		}
	}
	if err := e.read(func(i instance) error { return tellPolicy(e, i) }); err != nil {
		return err
	}
	if !result.Interface.Armed {
		e.say("%s is not armed: %s", ifname, result.Interface.Why)
		return errors.Join(unkept, exitError{exitPartly})
	}
	return unkept
}

// options reads what is to be attached, before anything is touched.
func (f attachFlags) options(e *env, cmd *cobra.Command, ifname string) (opts datapath.AttachOptions, err error) {
	opts = datapath.AttachOptions{PinDir: e.pinDir, Interface: ifname, Mode: f.mode, By: e.operator()}
	if opts.Confirm, err = f.confirm.parse(); err != nil {
		return opts, err
	}
	limited := cmd.Flags().Changed("new")
	if opts.Concurrent, err = f.limit.parseConcurrent(cmd.Flags()); err != nil {
		return opts, err
	}
	switch {
	case f.file != "" && (limited || cmd.Flags().Changed("burst") || opts.Concurrent != nil):
		return opts, usagef("give -f FILE or limits, not both; a limit can be changed later: synward limit SERVICE --new RATE")
	case f.file != "":
		opts.Policy, err = e.readPolicy(f.file)
	case limited:
		opts.Limit, err = f.limit.parse(cmd.Flags())
	case cmd.Flags().Changed("burst"):
		err = usagef("--burst needs --new RATE beside it, as in --new 50/s --burst %d", f.limit.burst)
	}
	return opts, err
}

// guardAttach is a Lockout if somebody who is logged in could not log in again under the policy to come. What
// is attached and in force already changes nothing for anybody. Should somebody apply another policy before
// the attach, that one was guarded too.
func guardAttach(e *env, opts datapath.AttachOptions) error {
	i, err := e.kernel.Open(e.pinDir)
	if err != nil {
		// Nothing is there. Whatever else is wrong, attach will say.
		next, err := policyToCome(policy.Default(nil), opts)
		if err != nil {
			return err
		}
		return wayOn(e.guardPolicy(nil, next), e.program()+" attach "+opts.Interface+", "+e.program())
	}
	defer i.Close()
	p, err := i.Policy()
	if err != nil {
		return err
	}
	next, err := policyToCome(p.Policy, opts)
	if err != nil {
		return err
	}
	all, err := i.Interfaces()
	if err != nil {
		return err
	}
	there := slices.ContainsFunc(all, func(one datapath.Interface) bool {
		return one.Name == opts.Interface && one.Netns == ""
	})
	if there && next.Equal(p.Policy) {
		return nil
	}
	return e.guardPolicy(i, next)
}

// policyToCome is what will be in force after an attach.
func policyToCome(inForce *policy.Policy, opts datapath.AttachOptions) (*policy.Policy, error) {
	next := inForce
	if opts.Policy != nil {
		next = opts.Policy
	}
	if opts.Limit == nil && opts.Concurrent == nil {
		return next, nil
	}
	change := policy.LimitChange{Concurrent: opts.Concurrent}
	if opts.Limit != nil {
		change.New, change.Burst = &opts.Limit.Rate, &opts.Limit.Burst
	}
	return policy.WithLimit(next, policy.DefaultService, change)
}

// tellAttach says which mode was taken, why no better one, and what may surprise.
func tellAttach(e *env, ifname string, r *datapath.AttachResult) {
	mode := report.Mode(r.Interface.Mode)
	switch {
	case r.Unchanged:
		e.say("%s: already attached, nothing changed: %s", ifname, mode)
	case r.Mended:
		e.say("%s: attached again after its link was lost: %s", ifname, mode)
	default:
		e.say("%s: attached: %s", ifname, mode)
	}
	for _, attempt := range r.Refused {
		e.say("%s: not %s: %s", ifname, attempt.Mode, oneLine(attempt.Err))
	}
	for _, warning := range r.Warnings {
		e.say("warning: %s", warning)
	}
	if one := r.Interface; one.Unconfirmed && one.Left > 0 {
		e.say("%s: %s; to keep it: %s confirm", ifname, report.Unconfirmed(one.Left), e.program())
	}
}

// completeInterfaces offers the interfaces of this network namespace to the shell.
func completeInterfaces(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names := make([]string, len(all))
	for i, one := range all {
		names[i] = one.Name
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
