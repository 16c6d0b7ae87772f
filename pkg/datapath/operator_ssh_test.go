// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

const (
	// operatorVariable makes TestOperatorHelper a command: print, print-by-table, peer, or accept and an address.
	operatorVariable = "SYNWARD_TEST_OPERATORS"
	operatorPort     = 2222
	operatorDeadline = 20 * time.Second
)

// operatorAnswer is what the command prints.
type operatorAnswer struct {
	Operators []datapath.Operator
	Error     string
}

// TestOperatorHelper is no test: it is what the others run by ssh.
func TestOperatorHelper(t *testing.T) {
	what, addr, _ := strings.Cut(os.Getenv(operatorVariable), " ")
	switch what {
	case "print", "print-by-table":
		if what == "print-by-table" {
			if err := refuseBorrowing(); err != nil {
				t.Fatal(err)
			}
		}
		ops, err := datapath.Operators()
		answer := operatorAnswer{Operators: ops}
		if err != nil {
			answer.Error = err.Error()
		}
		if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
			t.Fatal(err)
		}
		os.Exit(0)
	case "peer":
		fmt.Println(datapath.SSHPeer())
		os.Exit(0)
	case "accept":
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, conn)
		os.Exit(0)
	}
}

// refuseBorrowing makes pidfd_getfd fail in this process, as the filters of containers do.
func refuseBorrowing() error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the system call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_PIDFD_GETFD},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("set filter: %w", errno)
	}
	if _, err := unix.PidfdGetfd(-1, 0, 0); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("pidfd_getfd says %w in spite of the filter", err)
	}
	return nil
}

// operatorBench is an sshd on port 2222 in a namespace, and a client namespace with two addresses of each
// family: the operator's and those of a stranger, who has opened a connection by each and says nothing.
type operatorBench struct {
	*testenv.Pair
	t            *testing.T
	sshd         *testenv.SSHD
	stranger4    netip.Addr
	stranger6    netip.Addr
	helper, self string
}

func newOperatorBench(t *testing.T) *operatorBench {
	t.Helper()
	b := &operatorBench{t: t, stranger4: netip.MustParseAddr("10.77.0.66"), stranger6: netip.MustParseAddr("fd78::66")}
	b.Pair = testenv.NewPair(t, testenv.PairOptions{ClientAddrs: []netip.Addr{b.stranger4, b.stranger6}})
	b.sshd = testenv.NewSSHD(t, b.Server, operatorPort)
	t.Cleanup(func() {
		if err := b.Client.KillAll(); err != nil {
			t.Error(err)
		}
	})
	var err error
	if b.self, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	b.helper = fmt.Sprintf("env %s=print GORACE=atexit_sleep_ms=0 %s -test.run='^TestOperatorHelper$'", operatorVariable, b.self)
	for src, dst := range map[netip.Addr]netip.Addr{b.stranger4: b.ServerIP4, b.stranger6: b.ServerIP6} {
		conn, err := b.sshd.Knock(b.Client, src, dst)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	return b
}

// ask runs a command by ssh, and returns the operators of its own namespace that it prints.
func (b *operatorBench) ask(args ...string) []datapath.Operator {
	b.t.Helper()
	return b.parse(b.run(args...))
}

func (b *operatorBench) run(args ...string) []byte {
	b.t.Helper()
	out, err := b.sshd.Client(b.t, b.Client, args...).Output()
	if err != nil {
		b.t.Fatalf("ssh %s: %v: %s", strings.Join(args, " "), err, stderrOf(err))
	}
	return out
}

func stderrOf(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}

func (b *operatorBench) parse(out []byte) []datapath.Operator {
	b.t.Helper()
	answer := b.decode(out)
	if answer.Error != "" {
		b.t.Fatalf("the command failed: %s", answer.Error)
	}
	// Whoever runs this test may have come by SSH himself.
	return slices.DeleteFunc(answer.Operators, func(op datapath.Operator) bool { return op.Netns != "" })
}

func (b *operatorBench) decode(out []byte) (answer operatorAnswer) {
	b.t.Helper()
	if err := json.Unmarshal(out, &answer); err != nil {
		b.t.Fatalf("the command printed %q: %v", out, err)
	}
	return answer
}

// here lists the operators of the server's namespace as this process sees them.
func (b *operatorBench) here() []datapath.Operator {
	b.t.Helper()
	ops, err := datapath.Operators()
	if err != nil {
		b.t.Fatal(err)
	}
	return slices.DeleteFunc(ops, func(op datapath.Operator) bool { return op.Netns != b.Server.Name() })
}

// hold keeps an ssh client running until the test or the returned function ends it, and waits for its
// session.
func (b *operatorBench) hold(who string, args ...string) (end func()) {
	b.t.Helper()
	cmd := b.sshd.Client(b.t, b.Client, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "TERM=xterm")
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	end = func() {
		_ = cmd.Process.Kill()
		_ = in.Close()
		_ = cmd.Wait()
	}
	b.t.Cleanup(end)
	testenv.WaitFor(b.t, operatorDeadline, "the session of "+who, func() bool {
		return slices.ContainsFunc(b.here(), func(op datapath.Operator) bool { return whoIs(op) == who })
	})
	return end
}

// whoIs leaves out which terminal it is.
func whoIs(op datapath.Operator) string {
	if name, _, terminal := strings.Cut(op.Who, "@pts/"); terminal {
		return name + "@pts/X"
	}
	return op.Who
}

// want compares operators with what is expected of them in order: own or not, who and from where.
func (b *operatorBench) want(ops []datapath.Operator, want ...string) {
	b.t.Helper()
	var got []string
	for _, op := range ops {
		own := "other"
		if op.Own {
			own = "own"
		}
		got = append(got, fmt.Sprintf("%s %s %s to %s", own, whoIs(op), op.Peer.Addr(), op.Local))
		if op.Peer.Port() == 0 {
			b.t.Errorf("%+v: the peer has no port", op)
		}
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("operators %q, want %q", got, want)
	}
}
