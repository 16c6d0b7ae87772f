// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// The exit codes. Scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotAttached = 3
	exitPartly      = 4
	exitRefused     = 5
	exitOver        = 6
)

// usageError is a command line that makes no sense.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// exitError ends a command with a code after it has said all there is to say.
type exitError struct{ code int }

func (e exitError) Error() string { return "" }

// exitCode is what the process returns for what a command returned.
func exitCode(err error) int {
	var silent exitError
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &silent):
		return silent.code
	case errors.As(err, &usage), errors.Is(err, policy.ErrInvalid), errors.Is(err, datapath.ErrInvalid):
		return exitUsage
	case errors.Is(err, datapath.ErrUnsettled), errors.Is(err, datapath.ErrUnkept):
		return exitPartly
	case errors.Is(err, datapath.ErrRefused):
		return exitRefused
	case errors.Is(err, datapath.ErrNotAttached):
		return exitNotAttached
	}
	return exitFailed
}

// oneLine is the text of an error with its lines joined; empty if there is nothing to say. What is wrong in a
// policy file stays as it is: it shows the place under the line.
func oneLine(err error) string {
	if err == nil {
		return ""
	}
	var inFile *policy.Error
	if errors.As(err, &inFile) {
		return err.Error()
	}
	var parts []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, "; ")
}

// name is what the operator typed to get here, without the program.
func name(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

// noArgs, oneArg and someArgs say which arguments a command takes. what names them in the error.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument, not %q; see %s --help", name(cmd), args[0], cmd.CommandPath())
	}
	return nil
}

func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return usagef("%s needs %s: %s", name(cmd), what, cmd.UseLine())
		case 1:
			return nil
		}
		return usagef("%s takes one argument, not %d: %s", name(cmd), len(args), cmd.UseLine())
	}
}

func atMostOneArg(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%s takes one argument, not %d: %s", name(cmd), len(args), cmd.UseLine())
	}
	return nil
}

func someArgs(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%s needs %s: %s", name(cmd), what, cmd.UseLine())
		}
		return nil
	}
}
