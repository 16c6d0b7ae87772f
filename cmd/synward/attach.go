// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/report"
)

type attachFlags struct {
	mode  datapath.Mode
	limit limitFlags
}

func newAttachCmd(e *env) *cobra.Command {
	var f attachFlags
	cmd := &cobra.Command{
		Use:   "attach IFACE",
		Short: "Put the limiter on an interface",
		Long: "Put the limiter on an interface of this network namespace. It stays when the command ends.\n\n" +
			"Without --new, what is in force stays so; on the first attach new connections are counted and none is refused.",
		Example:           "  synward attach eth0\n  synward attach eth0 --new 50/s --burst 100",
		Args:              oneArg("an interface"),
		ValidArgsFunction: completeInterfaces,
		RunE:              e.asRoot(func(cmd *cobra.Command, args []string) error { return runAttach(e, cmd, args[0], f) }),
	}
	choiceFlag(cmd.Flags(), &f.mode, "mode", "", "how to attach",
		datapath.ModeAuto, datapath.ModeNative, datapath.ModeGeneric, datapath.ModeTC)
	f.limit.add(cmd.Flags(), "`RATE` of new connections of one source, as in 50/s, 3/min or 2k/h")
	return cmd
}

func runAttach(e *env, cmd *cobra.Command, ifname string, f attachFlags) error {
	opts := datapath.AttachOptions{PinDir: e.pinDir, Interface: ifname, Mode: f.mode}
	if cmd.Flags().Changed("new") {
		limit, err := f.limit.parse(cmd.Flags())
		if err != nil {
			return err
		}
		opts.Limit = limit
	} else if cmd.Flags().Changed("burst") {
		return usagef("--burst needs --new RATE beside it, as in --new 50/s --burst %d", f.limit.burst)
	}
	result, err := e.kernel.Attach(opts)
	if err != nil {
		return err
	}
	tellAttach(e, ifname, result)
	if err := e.read(func(i instance) error { return tellPolicy(e, i) }); err != nil {
		return err
	}
	if !result.Interface.Armed {
		e.say("%s is not armed: %s", ifname, result.Interface.Why)
		return exitError{exitPartly}
	}
	return nil
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
}

// tellPolicy says what is in force.
func tellPolicy(e *env, i instance) error {
	p, err := i.Policy()
	if err != nil {
		return err
	}
	e.say("%s", report.Limit(p.Limit))
	if p.Table != nil {
		e.say("%s", report.Table(p.Table))
	}
	return nil
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
