// SPDX-License-Identifier: Apache-2.0

package testenv

import "testing"

func TestKillAllEndsWhatLivesInTheNamespace(t *testing.T) {
	a, b := NewNamespace(t, "a"), NewNamespace(t, "b")
	inside, outside := a.Command("sleep", "600"), b.Command("sleep", "600")
	for _, cmd := range []interface{ Start() error }{inside, outside} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		_ = outside.Process.Kill()
		_ = outside.Wait()
	})
	for _, ns := range []*Namespace{a, b} {
		WaitFor(t, answerDeadline, "a process in "+ns.Name(), func() bool {
			pids, err := ns.Processes()
			return err == nil && len(pids) == 1
		})
	}
	if err := a.Do(a.KillAll); err != nil {
		t.Fatal(err)
	}
	if err := inside.Wait(); err == nil {
		t.Error("the process was not killed")
	}
	if pids, err := b.Processes(); err != nil || len(pids) != 1 || pids[0] != outside.Process.Pid {
		t.Errorf("processes of the other namespace: %v (%v), want %d", pids, err, outside.Process.Pid)
	}
}
