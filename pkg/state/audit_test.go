// SPDX-License-Identifier: Apache-2.0

package state

import (
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
)

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// minute is a change that was made n minutes past noon.
func minute(n int) AuditEntry {
	g := uint16(n)
	return AuditEntry{
		Time: noon().Add(time.Duration(n) * time.Minute), Command: []string{"limit", fmt.Sprint(n)}, PinDir: datapath.DefaultPinDir,
		GenerationAfter: &g,
	}
}

func appendAll(t *testing.T, dir string, entries ...AuditEntry) {
	t.Helper()
	for _, e := range entries {
		if err := AppendAudit(dir, e); err != nil {
			t.Fatal(err)
		}
	}
}

// read returns the second word of each command, and what was skipped.
func read(t *testing.T, dir string, since time.Time, count int) (numbers []string, skipped AuditSkipped) {
	t.Helper()
	entries, skipped, err := ReadAudit(dir, since, count)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		numbers = append(numbers, e.Command[1])
	}
	return numbers, skipped
}

func wantNumbers(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("read %v, want %v", got, want)
	}
}

func TestAuditComesBackAsItWas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log", "synward")
	before, after := uint16(3), uint16(4)
	want := AuditEntry{
		Schema: 1, Time: noon().Add(123456789), UID: 1000, SudoUser: "ann", SSHPeer: "[2001:db8::7]:50432",
		Command: []string{"block", "add", "192.0.2.1", "--reason", "line\nbreak \"and\" <quote>"}, PinDir: datapath.DefaultPinDir,
		GenerationBefore: &before, GenerationAfter: &after, Exit: 4, Error: "not settled",
	}
	appendAll(t, dir, want)
	got, skipped, err := ReadAudit(dir, time.Time{}, 0)
	if err != nil || skipped.Lines != 0 || len(got) != 1 || fmt.Sprintf("%+v", plain(got[0])) != fmt.Sprintf("%+v", plain(want)) {
		t.Errorf("read %+v, skipped %+v, %v; want %+v", got, skipped, err, want)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o750 | os.ModeDir, filepath.Join(dir, auditFile): 0o640} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, mode)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, auditFile))
	if err != nil || strings.Count(string(text), "\n") != 1 || !strings.Contains(string(text), `"time":"2026-03-01T12:00:00.123456789Z"`) {
		t.Errorf("the log holds %q, %v", text, err)
	}
}

// plain has values where an entry has pointers.
func plain(e AuditEntry) any {
	before, after := *e.GenerationBefore, *e.GenerationAfter
	e.GenerationBefore, e.GenerationAfter = nil, nil
	return []any{e, before, after}
}

func TestAuditReadsWhatWasRotated(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, auditFile)
	for n := range 12 {
		appendAll(t, dir, minute(n))
		for age := n; age > 0; age-- {
			from := fmt.Sprintf("%s.%d", log, age-1)
			if age == 1 {
				from = log
			}
			if err := os.Rename(from, fmt.Sprintf("%s.%d", log, age)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	appendAll(t, dir, minute(12))
	compress(t, log+".2")
	compress(t, log+".11")
	foreign := filepath.Join(dir, auditFile+".bak")
	if err := os.WriteFile(foreign, []byte("not a log\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	all, skipped := read(t, dir, time.Time{}, 0)
	wantNumbers(t, all, "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12")
	if skipped.Lines != 0 {
		t.Errorf("skipped %+v", skipped)
	}
	last, _ := read(t, dir, time.Time{}, 2)
	wantNumbers(t, last, "11", "12")
	since, _ := read(t, dir, noon().Add(9*time.Minute), 0)
	wantNumbers(t, since, "9", "10", "11", "12")
	both, _ := read(t, dir, noon().Add(9*time.Minute), 1)
	wantNumbers(t, both, "12")
}

func compress(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	_, err = z.Write(text)
	if err := errors.Join(err, z.Close(), f.Close(), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
}

func TestAuditOfNobody(t *testing.T) {
	got, skipped := read(t, filepath.Join(t.TempDir(), "nowhere"), time.Time{}, 0)
	if len(got) != 0 || skipped.Lines != 0 {
		t.Errorf("read %v, skipped %+v", got, skipped)
	}
}

func TestAuditNamesWhatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, auditFile)
	appendAll(t, dir, minute(1))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSuffix(string(text), "\n")
	newer := strings.Replace(line, `"schema":1`, `"schema":2`, 1)
	odd := []string{
		line[:len(line)/2] + line, "Mar  1 12:00:00 host sshd: hello", newer, "null", `{"schema":1}`, "[]", "\x00\x00",
		strings.Repeat("x", 3*maxAuditLine),
	}
	log := line + "\n\n" + strings.Join(odd, "\n") + "\n" + strings.Replace(line, `"1"`, `"2"`, 1) + "\n" + line[:40]
	if err := os.WriteFile(path, []byte(log), 0o640); err != nil {
		t.Fatal(err)
	}
	got, skipped := read(t, dir, time.Time{}, 0)
	wantNumbers(t, got, "1", "2")
	if skipped.Lines != len(odd)+1 || len(skipped.Names) != maxSkippedNames ||
		skipped.Names[0] != path+":3: no line of synward, or cut short" ||
		skipped.Names[2] != path+":5: its schema is 2, and this version reads 1" {
		t.Errorf("skipped %d lines, named %q", skipped.Lines, skipped.Names)
	}
	// What was cut short costs no line but its own.
	appendAll(t, dir, minute(3))
	got, _ = read(t, dir, time.Time{}, 0)
	wantNumbers(t, got, "1", "2", "3")
}

func TestAuditOfManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	const writers, each = 8, 25
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for n := range each {
				e := minute(w*each + n)
				e.Error = strings.Repeat("long ", 200)
				if err := AppendAudit(dir, e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	got, skipped := read(t, dir, time.Time{}, 0)
	if len(got) != writers*each || skipped.Lines != 0 {
		t.Errorf("read %d lines of %d, skipped %+v", len(got), writers*each, skipped)
	}
}

func TestAuditOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts a file system: run it as root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k,mode=0700"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	written := 0
	for ; written < 1000; written++ {
		if err := AppendAudit(dir, minute(written)); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("on a full disk: %v", err)
			}
			break
		}
	}
	got, skipped := read(t, dir, time.Time{}, 0)
	if written == 0 || written == 1000 || len(got) != written || skipped.Lines > 1 {
		t.Errorf("wrote %d lines, read %d, skipped %+v", written, len(got), skipped)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64k,mode=0700"); err != nil {
		t.Fatal(err)
	}
	appendAll(t, dir, minute(written))
	if after, _ := read(t, dir, time.Time{}, 0); len(after) != written+1 {
		t.Errorf("read %d lines once there was room, want %d", len(after), written+1)
	}
}

func TestAuditFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	path := filepath.Join(dir, "log", auditFile)
	if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.Symlink(victim, path)); err != nil {
		t.Fatal(err)
	}
	if err := AppendAudit(filepath.Dir(path), minute(1)); !errors.Is(err, unix.ELOOP) {
		t.Errorf("through a link: %v", err)
	}
	if _, err := os.Stat(victim); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the link names: %v", err)
	}
	if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := AppendAudit(filepath.Dir(path), minute(1)); err == nil || !strings.Contains(err.Error(), "no ordinary file") {
		t.Errorf("into a pipe: %v", err)
	}
}

func TestAuditKeepsLinesShort(t *testing.T) {
	dir := t.TempDir()
	e := minute(1)
	for range 100000 {
		e.Command = append(e.Command, "\x01\x01\x01\x01\x01\x01")
	}
	e.Error = strings.Repeat("\x01", 1<<20)
	appendAll(t, dir, e)
	got, skipped, err := ReadAudit(dir, time.Time{}, 0)
	if err != nil || skipped.Lines != 0 || len(got) != 1 || len(got[0].Command)+got[0].ArgsLeftOut != len(e.Command) ||
		got[0].ArgsLeftOut == 0 {
		t.Errorf("read %d entries, skipped %+v, %v", len(got), skipped, err)
	}
}

func TestAuditDirOf(t *testing.T) {
	for pinDir, want := range map[string]string{
		datapath.DefaultPinDir: "/log",
		"/sys/fs/bpf/other":    "/log/" + datapath.InstanceName("/sys/fs/bpf/other"),
	} {
		if got := AuditDirOf("/log", pinDir); got != want {
			t.Errorf("log of %s: %s, want %s", pinDir, got, want)
		}
	}
}
