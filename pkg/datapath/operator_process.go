// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// sshStage is how far the connection of an sshd process has come.
type sshStage int

const (
	// stageSession: logged in, or nothing is known.
	stageSession sshStage = iota
	// stageLogin: not logged in, or the monitor of a session, which goes on to look like that.
	stageLogin
	// stageListener: it waits for connections and has none.
	stageListener
)

// sshProcess is one process of an SSH server.
type sshProcess struct {
	pid   int
	stage sshStage
	who   string
	// own: it is this process or one of those above it.
	own bool
	// netns is the identity of its network namespace, as ns/net links to it.
	netns string
	// sockets are its descriptors of sockets, by inode.
	sockets map[uint64]int
}

// sshAuthCommand is the part of OpenSSH 10 that talks to those who have not logged in, and to no other.
const sshAuthCommand = "sshd-auth"

// sshCommands are the programs of SSH servers: OpenSSH is one up to 9.7, two from 9.8, three from 10.0.
func sshCommands() []string {
	return []string{"sshd", "sshd-session", sshAuthCommand, "dropbear", "dropbearmulti"}
}

// sshProcesses looks through all processes that /proc shows. The error names the first that could not be
// looked at; the others are returned with it.
func sshProcesses(own map[int]bool) ([]*sshProcess, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var found []*sshProcess
	var first error
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		command := sshCommand(pid)
		if command == "" {
			continue
		}
		p, err := readSSHProcess(pid, command)
		if err != nil {
			if first == nil && !isGone(err) {
				first = fmt.Errorf("read sockets of %s (process %d), which takes root with CAP_SYS_PTRACE: %w", command, pid, err)
			}
			continue
		}
		p.own = own[pid]
		found = append(found, p)
	}
	return found, first
}

// sshCommand names the SSH server that a process runs, empty if it runs none. It is told by its file,
// because some are started under another name (by a symlink, for settings of their own in PAM), and by
// its name, because some share a file with other programs and for those whose file is closed to us.
func sshCommand(pid int) string {
	file, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return "" // ended, or a thread of the kernel
	}
	// After an update the file of a running program is gone.
	command := strings.TrimSuffix(filepath.Base(file), " (deleted)")
	if slices.Contains(sshCommands(), command) {
		return command
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if command = strings.TrimSpace(string(name)); err == nil && slices.Contains(sshCommands(), command) {
		return command
	}
	return ""
}

func readSSHProcess(pid int, command string) (*sshProcess, error) {
	p := &sshProcess{pid: pid}
	var err error
	if p.netns, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
		return nil, err
	}
	if p.sockets, err = socketsOfProcess(pid); err != nil {
		return nil, err
	}
	// Last, so that a process which has just come to its socket says what it is.
	title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err == nil && len(title) == 0 {
		err = unix.ESRCH // it has no memory any more, or not yet: it is ending or being started
	}
	if err != nil && isGone(err) {
		return nil, err
	}
	p.stage, p.who = sshStageOf(command, title)
	return p, nil
}

// sshStageOf reads the title of a process, which OpenSSH keeps (sshd.c, auth2.c, session.c):
//
//	sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups
//	/usr/sbin/sshd -D -R         accepted a moment ago
//	sshd: [rexeced]              (Debian, Fedora) likewise
//	sshd: [accepted]             has not said who he is
//	sshd: unknown [net]          has, and there is no such user
//	sshd: alice [net]            there is, and he has not proved it
//	sshd: alice [pam]            is about to
//	sshd: alice [priv]           the monitor, before and after the login
//	sshd: alice@pts/0            logged in
//	sshd: alice                  logged in without a shell: ssh -N, ssh -J
//
// So what is not logged in ends in brackets. It is not "@" that tells: names of users may hold it, and a
// session without a shell does not.
// From 9.8 on the title begins with sshd-session, and sshd-auth has those before the login.
func sshStageOf(command string, title []byte) (stage sshStage, who string) {
	words := strings.Fields(strings.ReplaceAll(string(title), "\x00", " "))
	if command == sshAuthCommand {
		return stageLogin, command
	}
	if len(words) == 0 || !strings.HasSuffix(words[0], ":") {
		if len(words) > 0 && words[len(words)-1] == "-R" {
			return stageLogin, command
		}
		return stageSession, command
	}
	if words = words[1:]; len(words) == 0 {
		return stageSession, command
	}
	if slices.Contains(words, "[listener]") {
		return stageListener, command
	}
	if last := words[len(words)-1]; strings.HasPrefix(last, "[") && strings.HasSuffix(last, "]") {
		return stageLogin, printable(strings.Join(words[:len(words)-1], " "))
	}
	return stageSession, printable(strings.Join(words, " "))
}

// printable makes what a stranger wrote fit for a line on a terminal.
func printable(s string) string {
	const longest = 64
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > longest {
		return string(runes[:longest])
	}
	return s
}

// socketsOfProcess lists the sockets that a process has open: a descriptor of each inode.
func socketsOfProcess(pid int) (map[uint64]int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	open, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	sockets := map[uint64]int{}
	for _, entry := range open {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			if isGone(err) {
				continue
			}
			return nil, err
		}
		number, isSocket := strings.CutPrefix(target, "socket:[")
		if !isSocket {
			continue
		}
		inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
		fd, fdErr := strconv.Atoi(entry.Name())
		if err == nil && fdErr == nil {
			sockets[inode] = fd
		}
	}
	return sockets, nil
}

// isGone: what was looked at has ended.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBADF)
}

// ownProcesses are this process and all above it, by the numbers that /proc uses.
func ownProcesses() map[int]bool {
	pid := os.Getpid()
	// Another number than ours if /proc is that of an outer PID namespace.
	if self, err := os.Readlink("/proc/self"); err == nil {
		if n, err := strconv.Atoi(self); err == nil {
			pid = n
		}
	}
	own := map[int]bool{}
	for pid > 0 && !own[pid] {
		own[pid] = true
		pid = parentPID(pid)
	}
	return own
}

// netnsNames gives network namespaces the names that people know.
type netnsNames struct {
	home  string
	named map[string]string
}

func newNetnsNames() *netnsNames {
	n := &netnsNames{}
	// The thread's, not the process's: the caller may have entered another for the time being.
	n.home, _ = os.Readlink("/proc/thread-self/ns/net")
	return n
}

// name is that of the namespace of a process.
func (n *netnsNames) name(netns string, pid int) string {
	if netns == n.home {
		return ""
	}
	if n.named == nil {
		n.named = map[string]string{}
		paths, _ := filepath.Glob("/run/netns/*")
		for _, path := range paths {
			var st unix.Stat_t
			if unix.Stat(path, &st) == nil {
				n.named[fmt.Sprintf("net:[%d]", st.Ino)] = filepath.Base(path)
			}
		}
	}
	if name := n.named[netns]; name != "" {
		return name
	}
	return "process " + strconv.Itoa(pid)
}
