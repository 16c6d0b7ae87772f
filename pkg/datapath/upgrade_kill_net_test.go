// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
)

// startUpgrade runs `upgrade` of this version, or of the other one, as a process.
func (l *upgradeLab) startUpgrade(other bool) *exec.Cmd {
	l.t.Helper()
	if !other {
		return l.start("upgrade")
	}
	cmd := l.command("upgrade")
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	return cmd
}

// mustUpgrade lets it come to its end.
func (l *upgradeLab) mustUpgrade(other bool) {
	l.t.Helper()
	if err := l.startUpgrade(other).Wait(); err != nil {
		l.t.Errorf("upgrade (other version: %v): %v", other, err)
	}
}

// upgradePins are what an upgrade makes beside the instance.
func (l *upgradeLab) upgradePins() bool {
	found, err := filepath.Glob(l.pinDir + "-new-*")
	return err == nil && len(found) > 0
}

// pinned waits until a process that upgrades has begun to pin, or is over.
func (l *upgradeLab) pinned(cmd *exec.Cmd) {
	tick := time.NewTicker(time.Millisecond / 4)
	defer tick.Stop()
	for begin := time.Now(); !l.upgradePins() && time.Since(begin) < streamPatience; <-tick.C {
		var info unix.Siginfo
		// Looks whether it is over, and leaves it to be waited for.
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != nil || info.Signo != 0 {
			return
		}
	}
}

// durations are how long a whole upgrade takes, and the part of it from the first pin on.
func (l *upgradeLab) durations(other bool) (whole, late time.Duration) {
	l.t.Helper()
	begin := time.Now()
	cmd := l.startUpgrade(other)
	l.pinned(cmd)
	pinned := time.Now()
	if err := cmd.Wait(); err != nil {
		l.t.Fatalf("upgrade: %v", err)
	}
	return time.Since(begin), time.Since(pinned)
}

// killUpgrade kills after a share of the whole time, or of that from the first pin on.
func (l *upgradeLab) killUpgrade(other, late bool, after time.Duration) (killed bool) {
	l.t.Helper()
	cmd := l.startUpgrade(other)
	if late {
		l.pinned(cmd)
	}
	return l.killStarted("upgrade", cmd, after)
}

// saysUpgrade is whether a command worked; else it must name the way out.
func (l *upgradeLab) saysUpgrade(what string, err error) (worked bool) {
	l.t.Helper()
	if err != nil && !strings.Contains(err.Error(), "synward upgrade") {
		l.t.Errorf("%s after a kill: %v; want that it works, or says `synward upgrade`", what, err)
	}
	return err == nil
}

// afterKill tries commands of both versions on what a kill has left.
func (l *upgradeLab) afterKill(n int) (added []netip.Prefix) {
	l.t.Helper()
	asError := func(_, stderr string, code int) error {
		if code == 0 || code == 4 {
			return nil
		}
		return fmt.Errorf("exit code %d: %s", code, stderr)
	}
	own := func(f func() error) error { return l.Server.Do(f) }
	openOwn := func() error {
		i, err := datapath.Open(l.pinDir)
		if err != nil {
			return err
		}
		defer i.Close()
		_, err = i.Interfaces()
		return err
	}
	l.saysUpgrade("status of this version", own(openOwn))
	l.saysUpgrade("status of the other version", asError(l.run("status")))
	one := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, byte(n), 1}), 32)
	block := func() error {
		i, err := datapath.OpenForChange(l.pinDir)
		if err != nil {
			return err
		}
		defer i.Close()
		return i.Add(datapath.Block, []datapath.Entry{{Prefix: one}})
	}
	if l.saysUpgrade("block add of this version", own(block)) {
		added = append(added, one)
	}
	two := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, byte(n), 2}), 32)
	if l.saysUpgrade("block add of the other version", asError(l.run("block", "add", two.String()))) {
		added = append(added, two)
	}
	return added
}

// `upgrade` is killed at any moment, in both directions: limits are in force all the time, each command that
// follows works or says what to type, and the next `upgrade` finishes what was begun with nothing lost.
func TestKillUpgrade(t *testing.T) {
	other := otherSynward(t)
	for _, mode := range []string{"native", "clsact"} {
		t.Run(mode, func(t *testing.T) {
			l := newUpgradeLab(t, other, upgradeModes()[mode])
			s := l.startStream(l.frames())
			whole, late := l.durations(true)
			l.mustUpgrade(false)
			var added []netip.Prefix
			n, swaps, outcomes := 0, uint64(2), map[string]int{}
			// Each takes as long as an upgrade there and back.
			randomMoments(t, often(12, killsVM), whole, func(after time.Duration) {
				other := n%2 == 0
				n++
				swaps++
				atEnd := n%4 > 1
				if atEnd {
					after = after * late / whole
				}
				killed := l.killUpgrade(other, atEnd, after)
				outcomes[fmt.Sprintf("killed %v, %s", killed, l.whatIsThere())]++
				if n%3 != 0 {
					added = append(added, l.afterKill(n)...)
				}
				l.mustUpgrade(other)
				if other {
					l.mustRun("services")
				}
			})
			sent := s.stop()
			l.upgradeHere()
			t.Logf("%d packets meanwhile; %v; %d entries added in between", sent, outcomes, len(added))
			l.mustHaveAll(added)
			l.mustAddUp()
			if got, most := l.admitted("s"), uint64(5*5)*(2+swaps); got > most {
				t.Errorf("%d connections under limits of one a day were admitted, at most %d", got, most)
			}
		})
	}
}

// whatIsThere is how far an upgrade came, by what it left.
func (l *upgradeLab) whatIsThere() string {
	l.t.Helper()
	return datapath.UpgradeLeft(l.t, l.pinDir)
}

func (l *upgradeLab) mustHaveAll(prefixes []netip.Prefix) {
	l.t.Helper()
	there := map[netip.Prefix]bool{}
	for _, e := range l.remember().Block {
		there[e.Prefix] = true
	}
	for _, p := range prefixes {
		if !there[p] {
			l.t.Errorf("%s was blocked between two upgrades and is gone", p)
		}
	}
}
