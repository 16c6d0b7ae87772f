// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/state"
)

// TestEveryCommandIsReadingOrChanging walks the tree, hidden commands too.
func TestEveryCommandIsReadingOrChanging(t *testing.T) {
	root := newRootCmd(newEnv())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var found []string
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		found = append(found, name(cmd))
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
	for _, one := range found {
		reads, changes := slices.Contains(readingCommands(), one), slices.Contains(changingCommands(), one)
		if reads == changes {
			t.Errorf("%s: reading %v, changing %v; put it in one of the two lists of audit.go", one, reads, changes)
		}
	}
	for _, one := range append(readingCommands(), changingCommands()...) {
		if !slices.Contains(found, one) {
			t.Errorf("%s is in a list of audit.go and is no command", one)
		}
	}
}

// changed are the lines of the audit log, shortened.
func changed(t *testing.T, f *fake) (lines []string) {
	t.Helper()
	entries, skipped, err := state.ReadAudit(f.logDir, time.Time{}, 0)
	if err != nil || skipped.Lines > 0 {
		t.Fatalf("read audit log: %v, skipped %+v", err, skipped)
	}
	for _, e := range entries {
		text := func(g *uint16) string {
			if g == nil {
				return "-"
			}
			return fmt.Sprint(*g)
		}
		lines = append(lines, fmt.Sprintf("%s: %s-%s exit %d %s", strings.Join(e.Command, " "), text(e.GenerationBefore),
			text(e.GenerationAfter), e.Exit, e.Error))
	}
	return lines
}

func wantChanged(t *testing.T, f *fake, want ...string) {
	t.Helper()
	if got := changed(t, f); !slices.Equal(got, want) {
		t.Errorf("the audit log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// onTheClock has later commands come later.
func onTheClock(e *env) { e.now = time.Now }

func TestWhatChangesIsWrittenDown(t *testing.T) {
	f := newFake()
	f.result = &datapath.AttachResult{Interface: datapath.Interface{Name: "eth0", Armed: true}}
	for _, args := range []string{
		"attach eth0", "limit default --new 50/s", "limit default --new 50/s", "rollback", "block add 192.0.2.1",
		"block rm 192.0.2.1", "block rm 192.0.2.1", "allow add 192.0.2.2", "allow rm 192.0.2.2", "forget 192.0.2.1", "confirm",
		"status", "sources", "block list", "check 192.0.2.1", "policy", "services", "stats", "history", "version",
		"detach eth1", "detach eth0", "detach --all", "restore", "save",
	} {
		runIn(t, f, onTheClock, strings.Fields(args)...)
	}
	f.policy.Pending = &datapath.Pending{}
	runIn(t, f, onTheClock, "confirm")
	wantChanged(t, f,
		"attach eth0: 1-1 exit 0 ",
		"limit default --new 50/s: 1-2 exit 0 ",
		"rollback: 2-3 exit 0 ",
		"block add 192.0.2.1: 3-3 exit 0 ",
		"block rm 192.0.2.1: 3-3 exit 0 ",
		"allow add 192.0.2.2: 3-3 exit 0 ",
		"allow rm 192.0.2.2: 3-3 exit 0 ",
		"forget 192.0.2.1: 3-3 exit 0 ",
		"detach eth0: 3-3 exit 0 ",
		"detach --all: 3-3 exit 0 ",
		"save: 3-3 exit 0 ",
		"confirm: 3-3 exit 0 ")
}

func TestWhatIsRefusedIsNoChange(t *testing.T) {
	for _, err := range []error{
		datapath.ErrRefused, datapath.ErrInvalid, datapath.ErrNotAttached, datapath.ErrUnsupported, datapath.ErrFull, policy.ErrInvalid,
	} {
		f := newFake()
		f.err = fmt.Errorf("no: %w", err)
		runWith(t, f, "attach", "eth0")
		runWith(t, f, "block", "add", "192.0.2.1")
		runWith(t, f, "block", "add", "nonsense")
		wantChanged(t, f)
	}
}

func TestWhatIsHalfDoneIsWrittenDown(t *testing.T) {
	f := newFake()
	f.err = errors.New("write map:\nno memory")
	runWith(t, f, "attach", "eth0")
	wantChanged(t, f, "attach eth0: --- exit 1 write map:; no memory")
	f = newFake()
	f.err = fmt.Errorf("%w: %w", datapath.ErrUnsettled, datapath.ErrRefused)
	runWith(t, f, "detach", "eth0")
	wantChanged(t, f, "detach eth0: --- exit 4 not settled: refused")
}

func TestHistory(t *testing.T) {
	f := newFake()
	expect(t, runWith(t, f, "history"), exitOK, "nothing was changed")
	f.peer = netip.MustParseAddrPort("198.51.100.7:50432")
	runWith(t, f, "block", "add", "192.0.2.1", "--reason", "it's late")
	got := runWith(t, f, "history", "--since", "1h", "--count", "5")
	want := "when                  who  from                policy  result  command\n" +
		"2026-03-01 12:00:01Z  ann  198.51.100.7:50432  1       done    block add 192.0.2.1 --reason 'it'\\''s late'\n"
	if got.code != exitOK || got.stdout != want || got.stderr != "" {
		t.Errorf("history: %+v, want\n%s", got, want)
	}
	if got := runWith(t, f, "history", "-o", "json"); got.code != exitOK || !strings.Contains(got.stdout, `"ssh_peer": "198.51.100.7:50432"`) {
		t.Errorf("history: %+v", got)
	}
	log := filepath.Join(f.logDir, "audit.jsonl")
	if err := os.WriteFile(log, []byte("torn\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, runWith(t, f, "history"), exitOK,
		"warning: skipped "+log+":1: no line of synward, or cut short", "nothing was changed")
	expect(t, runWith(t, f, "history", "--since", "yesterday"), exitUsage, `synward: invalid duration "yesterday": write it as in 90s, 10m, 12h or 7d`)
}

func TestALogThatCannotBeWrittenUndoesNothing(t *testing.T) {
	f := newFake()
	f.logDir = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(f.logDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, runWith(t, f, "block", "add", "192.0.2.1"), exitOK,
		"192.0.2.1: on the block list, expires never",
		"warning: what was changed stays so, but is missing in the history: make log directory: mkdir "+f.logDir+": not a directory")
	if len(f.lists[datapath.Block]) != 1 {
		t.Error("the block is gone")
	}
}

// TestAReadingCommandCannotChange holds the two lists to what they say.
func TestAReadingCommandCannotChange(t *testing.T) {
	f := newFake()
	r := &recorder{kernel: f, now: noon, readsOnly: true}
	_, attach := r.Attach(datapath.AttachOptions{})
	_, detach := r.Detach(datapath.DetachOptions{})
	_, restore := r.Restore(state.RestoreOptions{}, nil)
	_, open := r.OpenForChange("", nil)
	save := r.Save("", nil)
	for what, err := range map[string]error{"attach": attach, "detach": detach, "restore": restore, "save": save, "open": open} {
		if err == nil {
			t.Errorf("%s: a reading command may do it", what)
		}
	}
}
