// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sshdDeadline bounds the start of an SSH server.
const sshdDeadline = 10 * time.Second

// SSHD is a real OpenSSH server in a namespace, with keys and settings of its own. Any user may log in by its
// key, root too.
type SSHD struct {
	Port uint16
	ns   *Namespace
	dir  string
	log  string
}

// NewSSHD starts a server that listens on all addresses of ns. Cleanup ends it and every process in ns, so that
// neither sessions nor what they left behind stay. The system's server and its files are not touched; only
// /run/sshd, which sshd asks for and Debian makes at boot, is made and stays.
func NewSSHD(t testing.TB, ns *Namespace, port uint16) *SSHD {
	t.Helper()
	RequireRoot(t)
	program := Tool(t, "sshd")
	// Not T.TempDir, which only root can look into: sshd reads the keys of a user as that user.
	dir, err := os.MkdirTemp("", "sshd-test-")
	if err != nil {
		t.Fatalf("make directory for sshd: %v", err)
	}
	s := &SSHD{Port: port, ns: ns, dir: dir, log: filepath.Join(dir, "log")}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(s.log)
			t.Logf("sshd says: %s", log)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("remove %s: %v", dir, err)
		}
	})
	if err := s.configure(Tool(t, "ssh-keygen")); err != nil {
		t.Fatalf("configure sshd: %v", err)
	}
	if err := s.start(t, program); err != nil {
		t.Fatalf("start sshd: %v", err)
	}
	WaitFor(t, sshdDeadline, "sshd to listen", s.answers)
	return s
}

func (s *SSHD) configure(keygen string) error {
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return err
	}
	for _, key := range []string{"host", "user"} {
		out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", s.path(key)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("make key: %w: %s", err, out)
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		return err
	}
	settings := strings.Join([]string{
		"Port " + strconv.Itoa(int(s.Port)),
		"HostKey " + s.path("host"),
		"AuthorizedKeysFile " + s.path("user.pub"),
		"PermitRootLogin yes",
		"StrictModes no", // whoever may write to /tmp
		"UsePAM no",
		"UseDNS no",
		"PidFile none",
		"PrintMotd no",
		"PermitUserRC no",
	}, "\n")
	return os.WriteFile(s.path("config"), []byte(settings+"\n"), 0o644)
}

func (s *SSHD) start(t testing.TB, program string) error {
	log, err := os.Create(s.log)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.ns.Command(program, "-D", "-e", "-f", s.path("config"))
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return err
	}
	t.Cleanup(func() {
		if err := s.ns.KillAll(); err != nil {
			t.Errorf("end sshd: %v", err)
		}
		_ = cmd.Wait()
	})
	return nil
}

func (s *SSHD) answers() bool {
	conn, err := Dial(s.ns, netip.Addr{}, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.Port), time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func (s *SSHD) path(name string) string { return filepath.Join(s.dir, name) }

// Dir is where programs that the test starts may leave files; it goes at cleanup.
func (s *SSHD) Dir() string { return s.dir }

// Client prepares ssh(1) in the namespace from, logging in with the key. args are further options, the
// destination ("root@10.77.0.1") and the command.
func (s *SSHD) Client(t testing.TB, from *Namespace, args ...string) *exec.Cmd {
	t.Helper()
	return from.Command(Tool(t, "ssh"), append([]string{
		"-F", "none", "-p", strconv.Itoa(int(s.Port)), "-i", s.path("user"),
		"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "GlobalKnownHostsFile=/dev/null",
	}, args...)...)
}

// Knock opens a connection that says nothing and never logs in, and returns once the server has greeted it.
func (s *SSHD) Knock(from *Namespace, src, dst netip.Addr) (net.Conn, error) {
	conn, err := Dial(from, src, netip.AddrPortFrom(dst, s.Port), sshdDeadline)
	if err != nil {
		return nil, err
	}
	hello := make([]byte, len("SSH-"))
	_ = conn.SetReadDeadline(time.Now().Add(sshdDeadline))
	if _, err := conn.Read(hello); err != nil || !bytes.Equal(hello, []byte("SSH-")) {
		_ = conn.Close()
		return nil, fmt.Errorf("sshd greets by %q: %w", hello, err)
	}
	return conn, nil
}
