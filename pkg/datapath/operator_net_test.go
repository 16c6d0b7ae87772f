// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

func TestOperatorIsFoundBySSH(t *testing.T) {
	b := newOperatorBench(t)
	testenv.Tool(t, "sudo")
	own := "own root@notty 10.77.0.2 to 10.77.0.1:2222"
	b.want(b.ask("root@10.77.0.1", b.helper), own)
	b.want(b.ask("root@10.77.0.1", "sudo -n "+b.helper), own)
	b.want(b.ask("root@10.77.0.1", "sudo -n sh -c \"sudo -n -u root "+b.helper+"\""), own)
	b.want(b.ask("root@10.77.0.1", "env -u SSH_CONNECTION sudo -n "+b.helper), own)
	b.want(b.ask("root@fd77::1", b.helper), "own root@notty fd77::2 to [fd77::1]:2222")

	b.hold("nobody", "-N", "nobody@fd77::1")
	b.want(b.ask("-b", "10.77.0.66", "root@10.77.0.1", b.helper),
		"own root@notty 10.77.0.66 to 10.77.0.1:2222", "other nobody fd77::2 to [fd77::1]:2222")
	b.want(b.here(), "other nobody fd77::2 to [fd77::1]:2222")
}

// A tmux server belongs to no session: what runs in it has no sshd above it.
func TestOperatorIsFoundInTmux(t *testing.T) {
	b := newOperatorBench(t)
	testenv.Tool(t, "tmux")
	testenv.Tool(t, "sudo")
	tmux := "env -u TMUX TMUX_TMPDIR=" + b.sshd.Dir() + " tmux -f /dev/null -L operator"
	if out, err := b.sshd.Client(t, b.Client, "root@10.77.0.1", tmux+" new-session -d 'sleep 600'").CombinedOutput(); err != nil {
		t.Fatalf("start tmux: %v: %s", err, out)
	}
	t.Cleanup(func() {
		out, err := b.Server.Command("sh", "-c", tmux+" kill-server").CombinedOutput()
		if err != nil {
			t.Errorf("end tmux: %v: %s", err, out)
		}
	})
	// inside runs a command in a new window, as the server starts one.
	number := 0
	inside := func(command string) []datapath.Operator {
		t.Helper()
		number++
		file := filepath.Join(b.sshd.Dir(), fmt.Sprintf("answer%d", number))
		window := fmt.Sprintf("%s >%s.new; mv %s.new %s", command, file, file, file)
		cmd := b.Server.Command("sh", "-c", tmux+` new-window -d "$0"`, window)
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SSH_") })
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("open window: %v: %s", err, out)
		}
		var answer []byte
		testenv.WaitFor(t, operatorDeadline, "the answer from inside tmux", func() (done bool) {
			var err error
			answer, err = os.ReadFile(file)
			return err == nil
		})
		return b.parse(answer)
	}
	clients := func(want int) {
		t.Helper()
		testenv.WaitFor(t, operatorDeadline, fmt.Sprintf("%d clients of tmux", want), func() bool {
			out, err := b.Server.Command("sh", "-c", tmux+" list-clients").Output()
			return err == nil && strings.Count(string(out), "\n") == want
		})
	}
	b.want(inside(b.helper)) // nobody is there

	// Attached so that the environment stays that of the session which is gone.
	leave := b.hold("root@pts/X", "-tt", "root@fd77::1", tmux+" attach -E")
	clients(1)
	b.want(inside(b.helper), "other root@pts/X fd77::2 to [fd77::1]:2222")
	b.want(inside("sudo -n "+b.helper), "other root@pts/X fd77::2 to [fd77::1]:2222")
	leave()
	clients(0)
	// Attached as usual.
	b.hold("root@pts/X", "-tt", "root@10.77.0.1", tmux+" attach")
	clients(1)
	b.hold("nobody", "-N", "nobody@10.77.0.1")
	b.want(inside(b.helper), "own root@pts/X 10.77.0.2 to 10.77.0.1:2222", "other nobody 10.77.0.2 to 10.77.0.1:2222")
	b.want(inside("sudo -n "+b.helper), "own root@pts/X 10.77.0.2 to 10.77.0.1:2222", "other nobody 10.77.0.2 to 10.77.0.1:2222")
}

func TestOperatorIsNotWhoHasNotLoggedIn(t *testing.T) {
	b := newOperatorBench(t)
	// One is asked for the password of a user there is, one for that of a user there is not.
	for i, user := range []string{"root", "stranger"} {
		asked := filepath.Join(b.sshd.Dir(), user)
		script := filepath.Join(b.sshd.Dir(), user+".sh")
		if err := os.WriteFile(script, []byte("#!/bin/sh\n>"+asked+"\nexec sleep 600\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := b.sshd.Client(t, b.Client, "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password",
			"-b", []string{"10.77.0.66", "fd78::66"}[i], user+"@"+[]string{"10.77.0.1", "fd77::1"}[i])
		cmd.Env = append(os.Environ(), "SSH_ASKPASS="+script, "SSH_ASKPASS_REQUIRE=force")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		testenv.WaitFor(t, operatorDeadline, "ssh to ask for a password", func() bool {
			_, err := os.Stat(asked)
			return err == nil
		})
	}
	b.want(b.here())
	b.want(b.ask("root@10.77.0.1", b.helper), "own root@notty 10.77.0.2 to 10.77.0.1:2222")
	// At every moment of a connection's first steps.
	for range 50 {
		conn, err := testenv.Dial(b.Client, b.stranger4, netip.AddrPortFrom(b.ServerIP4, operatorPort), operatorDeadline)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			b.want(b.here())
		}
		_ = testenv.Abort(conn)
	}
}

// Where sockets may not be borrowed, the tables of each namespace tell the same.
func TestOperatorIsFoundWithoutBorrowing(t *testing.T) {
	b := newOperatorBench(t)
	b.hold("nobody", "-N", "nobody@10.77.0.1")
	helper := strings.Replace(b.helper, "=print ", "=print-by-table ", 1)
	for addr, own := range map[string]string{
		"10.77.0.1": "own root@notty 10.77.0.2 to 10.77.0.1:2222", "fd77::1": "own root@notty fd77::2 to [fd77::1]:2222",
	} {
		b.want(b.ask("root@"+addr, helper), own, "other nobody 10.77.0.2 to 10.77.0.1:2222")
	}
	cmd := b.Client.Command(b.self, "-test.run=^TestOperatorHelper$")
	cmd.Env = append(os.Environ(), operatorVariable+"=print-by-table")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderrOf(err))
	}
	elsewhere := func(op datapath.Operator) bool { return op.Netns != b.Server.Name() }
	b.want(slices.DeleteFunc(b.decode(out).Operators, elsewhere), "other nobody 10.77.0.2 to 10.77.0.1:2222")
}

func TestOperatorSaysWhatItMayNotLookAt(t *testing.T) {
	b := newOperatorBench(t)
	answer := b.decode(b.run("root@10.77.0.1", testenv.Tool(t, "setpriv")+" --bounding-set -sys_ptrace "+b.helper))
	if !regexp.MustCompile(`^find operators: read sockets of sshd \(process \d+\), which takes root with CAP_SYS_PTRACE: .*permission denied$`).MatchString(answer.Error) {
		t.Errorf("without CAP_SYS_PTRACE: %q", answer.Error)
	}
	if len(answer.Operators) > 0 {
		t.Errorf("without CAP_SYS_PTRACE: %v", answer.Operators)
	}
}

// Whom a session forwards to or from has not logged in.
func TestOperatorIsNotWhoIsForwarded(t *testing.T) {
	b := newOperatorBench(t)
	far := testenv.NewServer(t, b.Server, netip.AddrPortFrom(b.ServerIP4, 0), testenv.ServerOptions{Hold: true})
	// What ssh -J does on the way.
	b.hold("root", "-W", far.Addr().String(), "root@10.77.0.1")
	b.hold("nobody", "-N", "-R", "7002:"+far.Addr().String(), "nobody@fd77::1")
	testenv.WaitFor(t, operatorDeadline, "the forwarded port", func() bool {
		conn, err := testenv.Dial(b.Server, netip.Addr{}, netip.MustParseAddrPort("127.0.0.1:7002"), operatorDeadline)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
		}
		return err == nil
	})
	testenv.WaitFor(t, operatorDeadline, "the far end of both", func() bool { return far.Open() == 2 })
	b.want(b.here(), "other root 10.77.0.2 to 10.77.0.1:2222", "other nobody fd77::2 to [fd77::1]:2222")
}

// dropbear says nothing of its sessions, so all its connections count.
func TestOperatorOfDropbear(t *testing.T) {
	b := newOperatorBench(t)
	program := filepath.Join(t.TempDir(), "dropbear")
	if err := os.Symlink(b.self, program); err != nil {
		t.Fatal(err)
	}
	cmd := b.Server.Command(program, "-test.run=^TestOperatorHelper$")
	cmd.Env = append(os.Environ(), operatorVariable+"=accept 10.77.0.1:2022")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	testenv.WaitFor(t, operatorDeadline, "dropbear to listen", func() bool {
		conn, err := testenv.Dial(b.Client, b.stranger4, netip.MustParseAddrPort("10.77.0.1:2022"), operatorDeadline)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
		}
		return err == nil
	})
	testenv.WaitFor(t, operatorDeadline, "dropbear to accept", func() bool { return len(b.here()) > 0 })
	b.want(b.here(), "other dropbear 10.77.0.66 to 10.77.0.1:2022")
}
