// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/feed"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// The program synward with another layout of all that is pinned (tag otherabi; scripts/other-abi.sh says what
// differs). The guests of test-vm, which have no Go, find it in testdata.
const builtOther = "testdata/otherabi/synward"

// otherSynward builds it.
func otherSynward(t *testing.T) string {
	t.Helper()
	if os.Getenv("SYNWARD_VM") != "" {
		path, err := filepath.Abs(builtOther)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			t.Fatalf("scripts/test-vm.sh packs it: %v", err)
		}
		return path
	}
	path := filepath.Join(t.TempDir(), "synward")
	cmd := exec.Command(testenv.Tool(t, "go"), "build", "-tags", "otherabi", "-o", path, "../../cmd/synward")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the other synward: %v\n%s", err, out)
	}
	return path
}

// upgradeLab is a server with two interfaces, in two namespaces, that two versions of synward take turns on.
type upgradeLab struct {
	*bench
	second *bench
	other  string
	state  string // where the other version saves, and writes its log
}

// upgradePolicy has more services than counters lie near, one of each kind of list, and limits that
// need hooks of their own.
func upgradePolicy() string {
	var b strings.Builder
	b.WriteString("version: 1\nsets: {friends: [198.18.50.0/24]}\nservices:\n")
	for n := range 70 {
		fmt.Fprintf(&b, "  - {name: s%d, listen: [%d/tcp], limits: [{per: source, new: 1/d, burst: 5}]}\n", n, 1000+n)
	}
	b.WriteString("  - {name: friendly, listen: [\"10.77.0.1:2000/tcp\", 2001/udp], allow: [friends], limits: [{per: source, packets: 1/d, burst: 3}]}\n")
	b.WriteString("  - {name: open, listen: [8080/tcp], limits: [{per: source, new: 1M/s, over: challenge}, {per: source, bytes_out: 10GB/s}, {per: source, concurrent: 3k}]}\n")
	b.WriteString("global: {limits: [{per: source, new: 1300k/s}]}\n")
	b.WriteString("allow: [198.18.1.1, 198.18.2.0/24]\nblock: [198.18.3.1, 198.18.4.0/24, \"fd79::/40\"]\n")
	return b.String()
}

func newUpgradeLab(t *testing.T, other string, attach func(b *bench)) *upgradeLab {
	t.Helper()
	l := &upgradeLab{bench: newStreamBench(t), other: other, state: t.TempDir()}
	l.second = &bench{Pair: testenv.NewPair(t, testenv.PairOptions{GRO: true}), t: t, pinDir: l.pinDir}
	attach(l.bench)
	attach(l.second)
	l.change(func(i *datapath.Instance) error {
		return i.Apply(datapath.ApplyOptions{Policy: parsePolicy(t, upgradePolicy()), By: "ann"})
	})
	l.block(
		datapath.Entry{Prefix: netip.MustParsePrefix("198.18.5.5/32"), Reason: "host", By: "bob"},
		datapath.Entry{Prefix: netip.MustParsePrefix("198.18.6.0/24"), Reason: "net", By: "bob", Scope: datapath.ScopeNew},
		datapath.Entry{Prefix: netip.MustParsePrefix("fd78:1:2:3::/64"), Reason: "six", By: "bob"})
	l.allow("198.18.7.7/32", "fd7a::/32")
	l.loadFeeds()
	l.change(func(i *datapath.Instance) error {
		return i.Load(datapath.Block, []datapath.Entry{ban("198.18.8.8/32", false), ban("fd7b:1:2:3::/64", true)})
	})
	return l
}

// loadFeeds loads one of each kind. Who is named more than once sends nothing, for each who names him shows the hits.
func (l *upgradeLab) loadFeeds() {
	l.t.Helper()
	const twice, banned = "198.18.60.0/24", "198.18.61.1/32"
	feeds := map[datapath.Feed][]string{
		{Name: "lasting", List: datapath.Block, Scope: datapath.ScopeAll}:  {"198.18.9.9/32", "198.18.10.0/24", "fd7c::/32", twice, banned},
		{Name: "timed", List: datapath.Block, Scope: datapath.ScopeNew}:    {"198.18.11.1/32", "fd7d:1:2:3::/64", twice, banned},
		{Name: "friendly", List: datapath.Allow, Scope: datapath.ScopeAll}: {"198.18.12.0/24"},
		{Name: "ended", List: datapath.Block, Scope: datapath.ScopeAll}:    {"198.18.13.0/24"},
	}
	for f, prefixes := range feeds {
		f.Loaded, f.By = time.Unix(1_700_000_000, 0), "eve"
		switch f.Name {
		case "timed":
			f.Expires = time.Now().Add(time.Hour)
		case "ended":
			f.Expires = time.Now().Add(-time.Hour)
		}
		var all []netip.Prefix
		for _, p := range prefixes {
			all = append(all, netip.MustParsePrefix(p))
		}
		l.change(func(i *datapath.Instance) error {
			_, err := i.LoadFeed(datapath.FeedOptions{Feed: f, Set: feed.NewSet(all)})
			return err
		})
	}
	l.block(datapath.Entry{Prefix: netip.MustParsePrefix(twice), Reason: "mine", By: "bob"})
	l.change(func(i *datapath.Instance) error { return i.Load(datapath.Block, []datapath.Entry{ban(banned, false)}) })
}

// ban is one of the second time, by a service of the lab.
func ban(prefix string, only bool) datapath.Entry {
	return datapath.Entry{
		Prefix: netip.MustParsePrefix(prefix), Created: time.Now().Add(-time.Second), Expires: time.Now().Add(time.Hour),
		Ban: &datapath.Ban{Service: "s3", Only: only, Strikes: 5, Repeats: 2, Fades: time.Hour},
	}
}

// frames are SYNs whose ends and hits are known.
func (l *upgradeLab) frames() [][]byte {
	var out [][]byte
	for _, from := range []string{"198.18.1.1", "198.18.2.2", "198.18.3.1", "198.18.4.4", "fd79::1", "198.18.5.5", "198.18.6.6", "fd78:1:2:3::9", "198.18.7.7", "fd7a::7", "198.18.8.8",
		"198.18.9.9", "198.18.10.1", "fd7c::1", "198.18.11.1", "fd7d:1:2:3::1", "198.18.12.2"} {
		out = append(out, l.synFrameFrom(from, 1000))
	}
	for _, port := range []uint16{1000, 1001, 1063, 1064, 1069, 8080} {
		out = append(out, l.synFrameFrom("198.18.30.1", port))
	}
	out = append(out, l.synFrameFrom("198.18.50.1", 2000), l.synFrameFrom("198.18.51.1", 4000))
	return append(out, l.malformed())
}

// malformed ends for a reason that has another number in the other version. It makes no line of the ledger.
func (l *upgradeLab) malformed() []byte {
	l.t.Helper()
	client, err := l.Client.MAC(l.ClientIf)
	server, serverErr := l.Server.MAC(l.ServerIf)
	if err := errors.Join(err, serverErr); err != nil {
		l.t.Fatal(err)
	}
	from, to := netip.MustParseAddrPort("198.18.52.1:40000"), netip.AddrPortFrom(l.ServerIP4, 1000)
	return tg.SYN(from, to).With(tg.Flags(tg.SYNFlag|tg.FIN), tg.MACs(client, server)).Bytes()
}

const isMalformed = "malformed drop"

// command is the other version at work on the instance.
func (l *upgradeLab) command(args ...string) *exec.Cmd {
	cmd := l.Server.Command(l.other, append([]string{"--pin-dir", l.pinDir}, args...)...)
	cmd.Env = append(os.Environ(), "SYNWARD_STATE_DIR="+l.state, "SYNWARD_LOG_DIR="+l.state)
	return cmd
}

// run runs the other version, and returns what it said and its exit code.
func (l *upgradeLab) run(args ...string) (stdout, stderr string, code int) {
	l.t.Helper()
	cmd := l.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// mustRun wants the other version to succeed.
func (l *upgradeLab) mustRun(args ...string) string {
	l.t.Helper()
	stdout, stderr, code := l.run(args...)
	if code != 0 {
		l.t.Fatalf("the other synward %v: exit code %d: %s", args, code, stderr)
	}
	return stdout
}

// upgradeHere is `upgrade` of this version.
func (l *upgradeLab) upgradeHere() *datapath.Upgraded {
	l.t.Helper()
	var done *datapath.Upgraded
	err := l.Server.Do(func() (err error) {
		done, err = datapath.Upgrade(l.pinDir)
		return err
	})
	if err != nil {
		l.t.Fatalf("upgrade: %v", err)
	}
	return done
}

// thereAndBack upgrades by the other version and by this one.
func (l *upgradeLab) thereAndBack() {
	l.t.Helper()
	l.mustRun("upgrade")
	l.upgradeHere()
}

// mustAddUp wants every packet that either interface received to be judged, every hit to be counted at its
// entry, and services and ledger to have counted what packets ended as.
func (l *upgradeLab) mustAddUp() {
	l.t.Helper()
	for _, one := range l.interfaces() {
		if !one.Armed || one.Judged != one.Received {
			l.t.Errorf("%s in %q: armed %v, received %d and judged %d (%s)", one.Name, one.Netns, one.Armed, one.Received, one.Judged, one.Why)
		}
	}
	ends := l.tally()
	for end := range ends {
		if !slices.Contains([]string{isAllowed, isBlocked, isNobodys, isOverNew, isUnder, isMalformed, "established pass"}, end) {
			l.t.Errorf("packets ended as %s, as none does: %v", end, ends)
		}
	}
	var friends uint64
	l.read(func(i *datapath.Instance) error {
		services, servicesErr := i.Services()
		sources, err := i.Sources()
		var admitted, over, noted uint64
		for _, s := range services {
			admitted += s.Admitted.Packets
			for _, limit := range s.Limits {
				over += limit.Over.Packets
			}
		}
		for _, s := range sources {
			noted += s.Admitted + s.Refused
			if s.Sampled {
				l.t.Errorf("the ledger is a sample, so it cannot be added up")
			}
		}
		// Who is on the allow list of a service is admitted by it, and ends as allowed.
		friends = admitted - ends[isUnder]
		if admitted < ends[isUnder] || over != ends[isOverNew] {
			l.t.Errorf("services admitted %d and refused %d; packets ended as %v", admitted, over, ends)
		}
		// A program that finds no line, and makes one after the line was carried over, loses that one count: the
		// race of account.h, at most once for each line.
		want := ends[isUnder] + ends[isOverNew] + ends[isBlocked] + ends[isAllowed]
		if noted > want || noted+uint64(len(sources)) < want {
			l.t.Errorf("the ledger holds %d connections, counted were %d: %v", noted, want, ends)
		}
		if of, lines := friendsOf(sources); of > friends || of+lines < friends {
			l.t.Errorf("the ledger holds %d connections of friends, counted were %d", of, friends)
		}
		return errors.Join(err, servicesErr)
	})
	now := l.remember()
	for end, entries := range map[string][]datapath.Entry{isBlocked: now.Block, isAllowed: now.Allow} {
		var hits uint64
		for _, e := range entries {
			hits += e.Hits
		}
		if end == isAllowed {
			hits += friends
		}
		if hits != ends[end] {
			l.t.Errorf("entries were hit %d times, %d packets ended as %s", hits, ends[end], end)
		}
	}
	if left, err := filepath.Glob(l.pinDir + "-*"); err != nil || len(left) > 0 {
		l.t.Errorf("left behind: %v %v", left, err)
	}
}

// friendsOf is how often the allow list of a service let somebody through, by the ledger, and in how many lines.
func friendsOf(sources []datapath.Source) (admitted, lines uint64) {
	for _, s := range sources {
		if s.Prefix == netip.MustParsePrefix("198.18.50.1/32") {
			admitted += s.Admitted
			lines++
		}
	}
	return admitted, lines
}

// upgradeModes are how the lab may be attached: on kernels of today clsact is never taken by itself.
func upgradeModes() map[string]func(b *bench) {
	modes := map[string]func(b *bench){"clsact": func(b *bench) {
		if err := b.Server.Do(func() error { return datapath.AttachByClsact(b.pinDir, b.ServerIf) }); err != nil {
			b.t.Fatal(err)
		}
	}}
	for _, mode := range []datapath.Mode{datapath.ModeNative, datapath.ModeGeneric, datapath.ModeTC} {
		modes[string(mode)] = func(b *bench) { b.attach(mode, nil) }
	}
	return modes
}

func eachUpgradeMode(t *testing.T, test func(t *testing.T, l *upgradeLab)) {
	modes, other := upgradeModes(), otherSynward(t)
	names := []string{}
	for name := range modes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		t.Run(name, func(t *testing.T) { test(t, newUpgradeLab(t, other, modes[name])) })
	}
}
