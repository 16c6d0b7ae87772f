// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// way is how an operator works who is logged in: what runs on his terminal, and what he types before each command.
type way struct {
	name, shell, before string
	six                 bool // he comes by IPv6
}

func ways() []way {
	const (
		shell = "env PS1='" + sessionPrompt + "' sh"
		// With a server of its own, which belongs to no session.
		tmux = "tmux -f /dev/null -S $WORK/tmux new-session " + shell
		// sudo hands on neither where the test's programs are nor which instance is theirs.
		sudo = "sudo -n env PATH=$PATH " + worldVariables
	)
	return []way{
		{name: "plainly", shell: shell}, {name: "by sudo", shell: shell, before: sudo, six: true},
		{name: "in tmux", shell: tmux}, {name: "by sudo in tmux", shell: tmux, before: sudo, six: true},
	}
}

// TestSSHScripts are what an operator types who is logged in by the real ssh to the real sshd on port 2222, each
// script in every way. A script knows besides what scriptCommands has:
//
//	session                logs in
//	types CODE COMMAND...  types a command there, and wants that exit code
//	refused COMMAND...     types one that must end with exit code 5 and change nothing
func TestSSHScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces and loads BPF programs: run it as root")
	}
	for _, name := range []string{"sshd", "ssh", "ssh-keygen", "sudo", "tmux"} {
		if _, err := systemProgram(name); err != nil && os.Getenv("SYNWARD_VM") != "" {
			t.Skipf("this guest has no %s: scripts/vm/initramfs.py packs only what tests of the kernel need", name)
		}
	}
	all := new(worlds)
	for _, w := range ways() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			s := &session{way: w}
			cmds := scriptCommands()
			cmds["session"], cmds["types"], cmds["refused"] = s.begin, s.types, s.refused
			testscript.Run(t, testscript.Params{
				Dir: "testdata/ssh", Cmds: cmds, RequireExplicitExec: true,
				Setup: func(e *testscript.Env) error { w.introduce(e); return all.setup(e) },
			})
		})
	}
}

// introduce gives a script besides its world $OPERATOR, which is where the operator comes from, $NETWORK, which
// that lies in without $HOST, where he goes to.
func (w way) introduce(e *testscript.Env) {
	operator, network, host := "10.77.0.2", "10.77.0.2/31", "10.77.0.1"
	if w.six {
		operator, network, host = "fd77::2", "fd77::2/127", "fd77::1"
	}
	e.Setenv("OPERATOR", operator)
	e.Setenv("NETWORK", network)
	e.Setenv("HOST", host)
}

// session is the terminal of an operator.
type session struct {
	way
	in    io.Writer
	out   screen
	typed int
}

// screen is all that a terminal showed.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// sessionPrompt is how its shell says that it can be typed to.
const sessionPrompt = "your turn> "

// begin starts sshd in the server's namespace, and logs in to it from the client's.
func (s *session) begin(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: session")
	}
	for _, key := range []string{"host", "user"} {
		ts.Check(ts.Exec("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ts.MkAbs(key)))
	}
	ts.Check(os.MkdirAll("/run/sshd", 0o755)) // sshd asks for it, and Debian makes it at boot
	inNetns(ts, "SERVER", &s.out, "sshd", "-D", "-e", "-f", "/dev/null", "-p", "2222", "-h", ts.MkAbs("host"),
		"-o", "AuthorizedKeysFile="+ts.MkAbs("user.pub"), "-o", "PermitRootLogin=yes", "-o", "StrictModes=no",
		"-o", "UsePAM=no", "-o", "UseDNS=no", "-o", "PidFile=none", "-o", "PrintMotd=no", "-o", "PermitUserRC=no")
	if !becomes(func() bool {
		return inside(ts.Getenv("SERVER"), func() error {
			c, err := net.Dial("tcp", "127.0.0.1:2222")
			if err == nil {
				c.Close()
			}
			return err
		}) == nil
	}) {
		ts.Fatalf("sshd does not listen")
	}
	shell := os.Expand("cd $WORK && TERM=xterm PATH=$PATH "+worldVariables+s.shell, ts.Getenv)
	s.in = inNetns(ts, "CLIENT", &s.out, "ssh", "-F", "none", "-tt", "-p", "2222", "-i", ts.MkAbs("user"),
		"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "GlobalKnownHostsFile=/dev/null", "root@"+ts.Getenv("HOST"), shell)
	s.wait(ts, "the prompt of the session", func() bool { return strings.Contains(s.out.String(), sessionPrompt) })
}

// wait waits for a condition, and shows the screen where that was in vain.
func (s *session) wait(ts *testscript.TestScript, what string, cond func() bool) {
	if !becomes(cond) {
		ts.Fatalf("waited %s for: %s; the screen shows %q", scriptDeadline, what, s.out.String())
	}
}

// types types a command, whose output and exit code go into files: a terminal would mix and wrap them.
func (s *session) types(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: types CODE COMMAND...")
	}
	s.typed++
	file := s.file(ts)
	command := os.Expand(s.before, ts.Getenv) + strings.Join(args[1:], " ")
	_, err := fmt.Fprintf(s.in, "%s >%s.out 2>%[2]s.err; echo $? >%[2]s.new; mv %[2]s.new %[2]s.code\n", command, file)
	ts.Check(err)
	s.wait(ts, command, func() bool {
		_, err := os.Stat(file + ".code")
		return err == nil
	})
	s.show(ts, args[0])
}

// show makes the output and exit code of the last command those that the script sees.
func (s *session) show(ts *testscript.TestScript, code string) {
	exits(ts, false, []string{code, "sh", "-c", `cat "$0.out"; cat "$0.err" >&2; exit $(cat "$0.code")`, s.file(ts)})
}

func (s *session) file(ts *testscript.TestScript) string {
	return filepath.Join(ts.Getenv("WORK"), fmt.Sprintf("typed%d", s.typed))
}

// refused types a command between two looks at what is in force.
func (s *session) refused(ts *testscript.TestScript, neg bool, args []string) {
	before := lookAt(ts)
	s.types(ts, neg, append([]string{strconv.Itoa(exitRefused)}, args...))
	if after := lookAt(ts); after != before {
		ts.Fatalf("it changed\n%s\nto\n%s", before, after)
	}
	s.show(ts, strconv.Itoa(exitRefused))
}

// lookAt is all that a command could have changed.
func lookAt(ts *testscript.TestScript) string {
	var all bytes.Buffer
	for _, what := range []string{"policy", "policy --list", "allow list", "block list"} {
		e := newEnv()
		e.stdout, e.stderr, e.getenv = &all, &all, ts.Getenv
		ts.Check(inside(ts.Getenv("SERVER"), func() error {
			if code := run(strings.Fields(what+" -o json"), e); code != exitOK {
				return fmt.Errorf("synward %s: exit code %d: %s", what, code, all.String())
			}
			return nil
		}))
	}
	// The session itself goes on.
	return regexp.MustCompile(`"hits": \d+`).ReplaceAllString(all.String(), "")
}

// systemProgram finds what the system has, and not a program of the tests by the same name.
func systemProgram(name string) (string, error) {
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("this test needs %s: scripts/setup.sh test installs it", name)
}

// inNetns runs a program of the system in a namespace. When the script ends, so does whoever lives there then: the
// program, sessions, and what these left behind.
func inNetns(ts *testscript.TestScript, netns string, out io.Writer, name string, args ...string) (in io.Writer) {
	path, err := systemProgram(name)
	ts.Check(err)
	cmd := exec.Command("nsenter", append([]string{"--net=" + ts.Getenv(netns), "--", path}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	in, err = cmd.StdinPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		if !becomes(func() bool { return killAll(ts.Getenv(netns)) == 0 }) {
			ts.Logf("somebody is left in %s", ts.Getenv(netns))
		}
		_ = cmd.Wait()
	})
	return in
}

// killAll kills every process that lives in a namespace. It returns how many it found.
func killAll(netns string) (found int) {
	home, err := os.Stat(netns)
	if err != nil {
		return 0
	}
	out, _ := exec.Command("ip", "netns", "pids", filepath.Base(netns)).Output()
	for _, line := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(line); err == nil && pid != os.Getpid() && livesIn(pid, home) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			found++
		}
	}
	return found
}

// livesIn: all threads of a process are in a namespace. The first one alone, by which ip goes, is there as well
// while a program looks through all namespaces, which the tests of other packages do meanwhile.
func livesIn(pid int, netns os.FileInfo) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/net", pid))
	lives := false
	for _, link := range threads {
		one, err := os.Stat(link)
		if err != nil {
			continue
		}
		if !os.SameFile(one, netns) {
			return false
		}
		lives = true
	}
	return lives
}
