// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// nobody is the user that synward-as-nobody becomes.
const nobody = 65534

// TestMain lets scripts run synward itself: the test binary stands in for it, and for the programs of
// programs_test.go.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"synward": main, "synward-as-nobody": mainAsNobody, "dial": mainDial, "send": mainSend, "sshd": mainSSHD,
	})
}

func mainAsNobody() {
	if os.Geteuid() == 0 {
		if err := syscall.Setuid(nobody); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exitFailed)
		}
	}
	main()
}

// TestPlainScripts are commands that touch no kernel.
func TestPlainScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/plain", Cmds: scriptCommands(), RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error { exitAtOnce(e); return nil },
	})
}

// TestKernelScripts are commands that do. See worlds.setup for what each script is given.
func TestKernelScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces and loads BPF programs: run it as root")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/kernel", Cmds: scriptCommands(), RequireExplicitExec: true, Setup: new(worlds).setup,
	})
}

// TestHostScripts are commands that count or close sockets of the whole host: one after the other, and none beside them.
func TestHostScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces and loads BPF programs: run it as root")
	}
	scripts, err := filepath.Glob("testdata/host/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("there are no scripts: %v", err)
	}
	all := new(worlds)
	for _, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) {
			testscript.Run(t, testscript.Params{
				Files: []string{script}, Cmds: scriptCommands(), RequireExplicitExec: true, Setup: all.setup,
			})
		})
	}
}

// exitAtOnce spares each command the second that the race detector waits before it exits.
func exitAtOnce(e *testscript.Env) { e.Setenv("GORACE", "atexit_sleep_ms=0") }

// scriptCommands are what scripts know beyond testscript's own:
//
//	exits CODE COMMAND...   runs a program and wants that exit code
//	server CODE COMMAND...  the same inside the server's network namespace
//	client CODE COMMAND...  the same inside the client's
//	until PATTERN COMMAND...  runs it inside the server's until what it prints matches
//	serve PORT...           listens there until the script ends
//	reboot                  takes away all that the kernel holds of the instance, as a reboot does
//	damage DIR              changes a byte of the newest state that is saved there
//	hold PORT N WANT        N connections of the client to that port, of which WANT must be made
//	login PORT              somebody logs in there by SSH, from the client, and stays
func scriptCommands() map[string]func(*testscript.TestScript, bool, []string) {
	within := func(variable string) func(*testscript.TestScript, bool, []string) {
		return func(ts *testscript.TestScript, neg bool, args []string) {
			if len(args) < 2 {
				ts.Fatalf("usage: CODE COMMAND...")
			}
			exits(ts, neg, append([]string{args[0], "nsenter", "--net=" + ts.Getenv(variable), "--"}, args[1:]...))
		}
	}
	return map[string]func(*testscript.TestScript, bool, []string){
		"exits": exits, "server": within("SERVER"), "client": within("CLIENT"), "until": until, "serve": serve, "login": login,
		"reboot": reboot, "damage": damage, "hold": hold, "download": download,
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		ts.Fatalf("run %s: %v", args[1], err)
	}
	got := 0
	if failed != nil {
		got = failed.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}
