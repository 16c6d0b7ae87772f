// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// applyVariable makes TestApplyCommand a command: what it holds is an applyOrder.
const applyVariable = "SYNWARD_TEST_APPLY"

// applyOrder is what a process of its own is to apply.
type applyOrder struct {
	PinDir, Policy, By string
	Confirm            time.Duration
	// Stay: say so once it is applied, and hold the instance until the end of the process.
	Stay bool
}

// TestApplyCommand does nothing by itself: other tests start it as a process that they kill.
func TestApplyCommand(t *testing.T) {
	text := os.Getenv(applyVariable)
	if text == "" {
		return
	}
	var order applyOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		t.Fatal(err)
	}
	if err := order.run(); err != nil {
		t.Fatal(err)
	}
}

func (o applyOrder) run() error {
	p, err := policy.Parse("order", []byte(o.Policy), nil)
	if err != nil {
		return err
	}
	i, err := datapath.OpenForChange(o.PinDir)
	if err != nil {
		return err
	}
	defer i.Close()
	if err := i.Apply(datapath.ApplyOptions{Policy: p, By: o.By, Confirm: o.Confirm}); err != nil {
		return err
	}
	if o.Stay {
		fmt.Println(appliedWord)
		select {}
	}
	return nil
}

const appliedWord = "applied"

// command is the test binary as a process that applies, in the server's namespace. It is not started.
func (b *bench) command(o applyOrder) *exec.Cmd {
	b.t.Helper()
	o.PinDir = b.pinDir
	text, err := json.Marshal(o)
	self, selfErr := os.Executable()
	if err := errors.Join(err, selfErr); err != nil {
		b.t.Fatal(err)
	}
	cmd := b.Server.Command(self, "-test.run=^TestApplyCommand$")
	// Without the last a process under the race detector sleeps for a second before it ends.
	cmd.Env = append(os.Environ(), applyVariable+"="+string(text), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	return cmd
}

// applyAndDie applies in another process, which is killed as soon as it has done so.
func (b *bench) applyAndDie(o applyOrder) {
	b.t.Helper()
	o.Stay = true
	cmd := b.command(o)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != appliedWord {
	}
	if lines.Text() != appliedWord {
		b.t.Errorf("the command that applies ended by itself: %v", lines.Err())
	}
	if err := cmd.Process.Kill(); err != nil {
		b.t.Error(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
		b.t.Errorf("the command that applies: %v, want it killed", err)
	}
}
