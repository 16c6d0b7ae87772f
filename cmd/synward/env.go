// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/state"
)

// pinDirVariable is the environment variable that stands for --pin-dir.
const pinDirVariable = "SYNWARD_PIN_DIR"

// stateDirVariable is the environment variable for where the state is saved, in place of state.DirOf.
const stateDirVariable = "SYNWARD_STATE_DIR"

// env is all that a command takes from its surroundings, so that each can be run inside a test.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time
	// tick sends after every d until stop is called.
	tick   func(d time.Duration) (ticks <-chan time.Time, stop func())
	getenv func(string) string
	// uid is who the process is for the audit log, euid what it may do.
	uid, euid int
	kernel    kernel
	// pinDir is set from the flag before a command runs.
	pinDir string
	// pinDirTyped: --pin-dir was given, so a proposed command must repeat it.
	pinDirTyped bool
}

func newEnv() *env {
	return &env{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, now: time.Now, tick: ticker, getenv: os.Getenv,
		uid: os.Getuid(), euid: os.Geteuid(), kernel: linux{},
	}
}

func ticker(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTicker(d)
	return t.C, t.Stop
}

// run runs one command and returns its exit code. What went wrong is one line on stderr, or for a policy
// file the line of the file with it.
func run(args []string, e *env) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	recorder := &recorder{kernel: e.kernel, now: e.now}
	e.kernel = recorder
	root := newRootCmd(e)
	root.SetArgs(args)
	prepare := root.PersistentPreRunE
	root.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		recorder.readsOnly = readsOnly(cmd)
		return prepare(cmd, args)
	}
	err := root.ExecuteContext(ctx)
	if text := oneLine(err); text != "" {
		fmt.Fprintf(e.stderr, "synward: %s\n", text)
	}
	e.record(recorder, args, exitCode(err), err)
	return exitCode(err)
}

// say writes words for the person, which are no data: they go to stderr.
func (e *env) say(format string, args ...any) {
	fmt.Fprintf(e.stderr, format+"\n", args...)
}

// defaultPinDir is where the instance is unless --pin-dir says otherwise.
func (e *env) defaultPinDir() string {
	if dir := e.getenv(pinDirVariable); dir != "" {
		return dir
	}
	return datapath.DefaultPinDir
}

// program is how a proposed command begins so that it means the same instance.
func (e *env) program() string {
	if !e.pinDirTyped {
		return "synward"
	}
	return "synward --pin-dir " + e.pinDir
}

// usePinDir settles where the instance is, whatever the working directory.
func (e *env) usePinDir(dir string, typed bool) error {
	if dir == "" {
		return usagef("--pin-dir is empty; leave it out for %s", e.defaultPinDir())
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("find pin directory: %w", err)
	}
	e.pinDir, e.pinDirTyped = abs, typed
	return nil
}

// operator names the person who types: the one behind sudo, else the user.
func (e *env) operator() string {
	if name := e.getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", e.euid)
}

// read opens the instance beside other readers for the time of f.
func (e *env) read(f func(instance) error) error {
	i, err := e.kernel.Open(e.pinDir)
	if err != nil {
		return err
	}
	defer i.Close()
	return f(i)
}

// change opens the instance alone for the time of f. What f changed is saved before it returns.
func (e *env) change(f func(instance) error) error {
	i, err := e.kernel.OpenForChange(e.pinDir, e.store())
	if err != nil {
		return err
	}
	return errors.Join(f(i), i.Close())
}

// stateDir is where the state of the instance is saved.
func (e *env) stateDir() string {
	if dir := e.getenv(stateDirVariable); dir != "" {
		return dir
	}
	return state.DirOf(e.pinDir)
}

func (e *env) store() *state.Store {
	return state.Open(e.stateDir(), func(line string) { e.say("warning: %s", line) })
}
