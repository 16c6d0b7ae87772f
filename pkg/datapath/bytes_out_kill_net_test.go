// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// killApply applies a policy by a process that is killed after so long.
func (b *bench) killApply(text string, after time.Duration) {
	b.t.Helper()
	cmd := b.command(applyOrder{Policy: text, By: "test"})
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.Exited()) {
		b.t.Fatalf("apply failed by itself: %v", err)
	}
}

// counts says whether the policy in force counts what is sent.
func (b *bench) counts() (yes bool) {
	b.t.Helper()
	b.read(func(i *datapath.Instance) error {
		p, err := i.PolicyInForce()
		yes = err == nil && p.Equal(parsePolicy(b.t, countsAll))
		return err
	})
	return yes
}

// Killed at any moment, an apply leaves an interface that is armed: with the second hook if the policy in force needs
// it. One that nobody needs is gone with the next command, and no pin without a hook stays.
func TestKillApplyOfBytesOut(t *testing.T) {
	for _, mode := range []datapath.Mode{datapath.ModeNative, datapath.ModeTC} {
		t.Run(string(mode), func(t *testing.T) {
			b := newBench(t, testenv.PairOptions{})
			b.attach(mode, nil)
			start := time.Now()
			b.killApply(countsAll, time.Minute)
			whole := time.Since(start)
			texts := [2]string{countsNothing, countsAll}
			n, outcomes := 0, map[string]int{}
			randomKills(t, whole, func(after time.Duration) {
				b.killApply(texts[n%2], after)
				n++
				counts := b.counts()
				before, _ := b.egress()
				outcomes[fmt.Sprintf("counts %v, %d programs", counts, before)]++
				if counts && before != 1 {
					t.Errorf("killed: the policy counts what is sent, and %d programs do", before)
				}
				b.change(func(*datapath.Instance) error { return nil })
				b.mustHaveEgress(map[bool]int{true: 1}[counts], "the next command")
			})
			t.Log(outcomes)
			b.apply(countsAll)
			b.mustHaveEgress(1, "the next apply")
			b.detachAll()
			b.mustBeGone()
			if left, _ := b.egress(); left != 0 {
				t.Errorf("detached: %d programs at egress", left)
			}
		})
	}
}

// The same of attach under such a policy, and of detach.
func TestKillAttachWithBytesOut(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	attach := b.duration("attach-out")
	detach := b.duration("detach")
	randomKills(t, attach, func(after time.Duration) {
		b.killAt("attach-out", after)
		if err := b.start("attach-out").Wait(); err != nil {
			t.Fatalf("the next attach: %v", err)
		}
		b.mustHaveEgress(1, "the next attach")
		b.killAt("detach", time.Duration(float64(after)*float64(detach)/float64(attach)))
		if err := b.start("detach").Wait(); err != nil {
			t.Fatalf("the next detach: %v", err)
		}
		b.mustBeGone()
		testenv.WaitFor(t, time.Second, "the programs to leave", func() bool { left, _ := b.egress(); return left == 0 })
	})
}
