// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/report"
	"github.com/synward/synward/pkg/state"
)

func newRestoreCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "restore [IFACE]",
		Short: "Bring back what was saved, after a reboot",
		Long: "Attach the interfaces that were attached when the state was saved, with its policies and lists: those first, so\n" +
			"that the first packet is judged. What is attached already stays as it is. An interface that is not there yet is\n" +
			"named (exit code 4); `restore IFACE` attaches it when it has come.",
		Args:              atMostOneArg,
		ValidArgsFunction: completeInterfaces,
		RunE: e.asRoot(func(_ *cobra.Command, args []string) error {
			o := state.RestoreOptions{PinDir: e.pinDir, By: e.operator()}
			if len(args) > 0 {
				o.Interface = args[0]
			}
			return runRestore(e, o)
		}),
	}
}

func runRestore(e *env, o state.RestoreOptions) error {
	warned := false
	store := state.Open(e.stateDir(), func(line string) {
		warned = true
		e.say("warning: %s", line)
	})
	all, err := e.kernel.Restore(o, store)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return nothingSaved(e, o, warned)
	}
	var failed []error
	attached := 0
	for _, one := range all {
		name := one.Place.String()
		if one.Here {
			name = one.Interface
		}
		switch {
		case one.Missing && one.Here:
			e.say("%s: is not there; when it has come: %s restore %[1]s", name, e.program())
		case one.Missing:
			e.say("%s: is not there; when it has come: %s restore", name, e.program())
		case one.Result == nil:
			failed = append(failed, one.Err)
		default:
			attached++
			tellAttach(e, name, one.Result)
			failed = append(failed, one.Err)
		}
	}
	if attached > 0 {
		if err := e.read(func(i instance) error { return tellRestored(e, i) }); err != nil {
			return err
		}
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if warned || attached < len(all) {
		return exitError{exitPartly}
	}
	return nil
}

// nothingSaved is a success: a machine may boot with nothing to restore.
func nothingSaved(e *env, o state.RestoreOptions, warned bool) error {
	what := "nothing"
	if o.Interface != "" {
		what = o.Interface + " was not attached, or not"
	}
	e.say("%s saved in %s, nothing changed", what, e.stateDir())
	if warned {
		return exitError{exitPartly}
	}
	return nil
}

func tellRestored(e *env, i instance) error {
	p, err := i.Policy()
	if err != nil {
		return err
	}
	for _, line := range report.InForce(p) {
		e.say("%s", line)
	}
	return nil
}
