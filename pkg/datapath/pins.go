// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// pinDir is one instance's directory on a bpffs: maps/, progs/ and links/.
type pinDir string

func (d pinDir) maps() string  { return filepath.Join(string(d), "maps") }
func (d pinDir) progs() string { return filepath.Join(string(d), "progs") }
func (d pinDir) links() string { return filepath.Join(string(d), "links") }

// pinKey names an attachment. An ifindex repeats across network namespaces, the cookie does not.
type pinKey struct {
	cookie  uint64
	ifindex int
	hook    hook
}

// String is the file name of the pins: bpffs names hold no dot, so no interface name is in it.
func (k pinKey) String() string {
	return fmt.Sprintf("%d-%d-%s", k.cookie, k.ifindex, k.hook)
}

func parsePinKey(name string) (pinKey, error) {
	parts := strings.SplitN(name, "-", 3)
	if len(parts) != 3 {
		return pinKey{}, fmt.Errorf("parse pin %q: not cookie-ifindex-hook", name)
	}
	cookie, err := strconv.ParseUint(parts[0], 10, 64)
	if err != nil {
		return pinKey{}, fmt.Errorf("parse pin %q: %w", name, err)
	}
	ifindex, err := strconv.ParseUint(parts[1], 10, 31)
	if err != nil {
		return pinKey{}, fmt.Errorf("parse pin %q: %w", name, err)
	}
	h := hook(parts[2])
	if !h.valid() {
		return pinKey{}, fmt.Errorf("parse pin %q: unknown hook", name)
	}
	return pinKey{cookie, int(ifindex), h}, nil
}

func (d pinDir) prog(k pinKey) string { return filepath.Join(d.progs(), k.String()) }
func (d pinDir) link(k pinKey) string { return filepath.Join(d.links(), k.String()) }

// exists reports whether the directory is there and is safe to use. What is not on a BPF file system
// is none of ours, whatever it looks like: it is neither read nor removed.
func (d pinDir) exists() (bool, error) {
	if err := d.checkFS(); err != nil {
		return false, err
	}
	info, err := os.Lstat(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at pin directory: %w", err)
	}
	return true, d.check(info)
}

// check refuses a directory that someone else could have made: bpffs may be writable by all (1777).
func (d pinDir) check(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fail(ErrRefused, "%s is not a directory; remove it", d)
	case !ok || int(st.Uid) != os.Geteuid():
		return fail(ErrRefused, "%s belongs to another user; remove it", d)
	case info.Mode().Perm()&0o077 != 0:
		return fail(ErrRefused, "%s is open to others (%v); chmod 700 it or remove it", d, info.Mode().Perm())
	}
	return nil
}

// checkFS wants the pin directory to lie on a BPF file system, right below a directory of it.
func (d pinDir) checkFS() error {
	if !filepath.IsAbs(string(d)) || strings.Contains(filepath.Base(string(d)), ".") {
		return fail(ErrInvalid, "pin directory %s: give an absolute path whose last name holds no dot", d)
	}
	for _, dir := range []string{string(d), filepath.Dir(string(d))} {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		switch {
		case errors.Is(err, fs.ErrNotExist) && dir == string(d):
		case err != nil:
			return fmt.Errorf("pin directory %s: %w", d, err)
		case st.Type != unix.BPF_FS_MAGIC && d == DefaultPinDir:
			return fail(ErrUnsupported, "no BPF file system is mounted; mount one: mount -t bpf bpf %s", filepath.Dir(string(d)))
		case st.Type != unix.BPF_FS_MAGIC:
			return fail(ErrInvalid, "pin directory %s: %s is not on a BPF file system (mount -t bpf bpf DIR makes one)", d, dir)
		}
	}
	return nil
}

// stagingMark is between the name of a pin directory and the random end of its staging directories.
const (
	stagingMark   = "-new-"
	stagingDigits = 16
)

// newStaging is where a new instance is built before it is renamed to its place. Its name cannot be
// guessed, so nobody can be there first.
func (d pinDir) newStaging() pinDir {
	return d + stagingMark + pinDir(newSuffix())
}

func newSuffix() string { return fmt.Sprintf("%0*x", stagingDigits, rand.Uint64()) }

// removeLeftovers takes away what a killed command left: maps that no program uses, and staging
// directories. Somebody else's directory of such a name is left alone.
func (d pinDir) removeLeftovers() error {
	if err := d.remove(); err != nil {
		return err
	}
	return d.removeStaging()
}

// removeStaging takes away the directories beside an instance in which a killed command built another.
func (d pinDir) removeStaging() error {
	staging, err := filepath.Glob(string(d) + stagingMark + strings.Repeat("[0-9a-f]", stagingDigits))
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	for _, dir := range staging {
		if err := pinDir(dir).remove(); err != nil && !errors.Is(err, ErrRefused) {
			return err
		}
	}
	return nil
}

func (d pinDir) make() error {
	for _, dir := range []string{string(d), d.maps(), d.progs(), d.links()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make pin directory: %w", err)
		}
	}
	return nil
}

// remove takes every pin away: only what this program puts there, so nothing else can be lost. What is
// killed half-way leaves no link behind and is finished by the next command that writes.
func (d pinDir) remove() error {
	there, err := d.exists()
	if err != nil || !there {
		return err
	}
	for _, dir := range []string{d.links(), d.progs(), d.maps()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove pins: %w", err)
		}
		for _, e := range entries {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("remove pins: %w", err)
			}
		}
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove pins: %w", err)
		}
	}
	if err := os.Remove(string(d)); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

// attachments lists what is pinned, sorted by name, each by its first hook. A program without its link is what a
// killed attach left: not an attachment. A clsact filter has no link; its program alone stands for it.
func (d pinDir) attachments() ([]pinKey, error) {
	progs, err := d.keys(d.progs())
	if err != nil {
		return nil, err
	}
	var keys []pinKey
	for _, k := range progs {
		if !k.hook.egress() && d.whole(k) {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// whole: a hook has all its pins.
func (d pinDir) whole(k pinKey) bool {
	if _, err := os.Lstat(d.prog(k)); err != nil {
		return false
	}
	if k.hook.filter() {
		return true
	}
	_, err := os.Lstat(d.link(k))
	return err == nil
}

// egress finds the second hook of an attachment.
func (d pinDir) egress(k pinKey) (out pinKey, found bool) {
	for _, h := range []hook{hookTCXOut, hookClsactOut} {
		out = pinKey{k.cookie, k.ifindex, h}
		if d.whole(out) {
			return out, true
		}
	}
	return pinKey{}, false
}

func (d pinDir) keys(dir string) ([]pinKey, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	var keys []pinKey
	for _, e := range entries {
		// What this version does not know is another's: it is left to that one and to detach --all.
		if k, err := parsePinKey(e.Name()); err == nil {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// sweep removes programs without a link and links without a program: the halves that a killed
// command left. Writers call it under the exclusive lock.
func (d pinDir) sweep() error {
	attached, err := d.attachments()
	if err != nil {
		return err
	}
	whole := map[pinKey]bool{}
	for _, k := range attached {
		whole[k] = true
		if out, ok := d.egress(k); ok {
			whole[out] = true
		}
	}
	for _, dir := range []string{d.progs(), d.links()} {
		keys, err := d.keys(dir)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if whole[k] {
				continue
			}
			if err := os.Remove(filepath.Join(dir, k.String())); err != nil {
				return fmt.Errorf("remove stale pin: %w", err)
			}
		}
	}
	return nil
}
