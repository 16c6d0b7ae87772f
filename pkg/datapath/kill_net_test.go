// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

// The environment by which the test binary becomes a command that can be killed.
const (
	childVariable  = "SYNWARD_TEST_CHILD"
	pinDirVariable = "SYNWARD_TEST_PIN_DIR"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(childVariable); what != "" {
		if err := child(what, os.Getenv(pinDirVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func tight() *policy.NewLimit { return rate(1, time.Hour, 3) }
func loose() *policy.NewLimit { return rate(1000, time.Second, 3000) }

// child is what the commands do, in the namespace that the parent started it in.
func child(what, pinDir string) error {
	if at, ok := strings.CutPrefix(what, "serve "); ok {
		return serveForever(at)
	}
	if to, ok := strings.CutPrefix(what, "dial "); ok {
		return dialForever(to)
	}
	if what == "attach" || what == "attach-tc" {
		mode := datapath.ModeNative
		if what == "attach-tc" {
			mode = datapath.ModeTC
		}
		_, err := datapath.Attach(datapath.AttachOptions{PinDir: pinDir, Interface: "srv0", Mode: mode, Limit: tight()})
		return err
	}
	if what == "attach-out" {
		p, err := policy.Parse("test", []byte(countsAll), nil)
		if err != nil {
			return err
		}
		_, err = datapath.Attach(datapath.AttachOptions{PinDir: pinDir, Interface: "srv0", Mode: datapath.ModeNative, Policy: p})
		return err
	}
	if what == "detach" {
		_, err := datapath.Detach(pinDir, "srv0")
		return err
	}
	if what == "upgrade" {
		_, err := datapath.Upgrade(pinDir)
		return err
	}
	i, err := datapath.OpenForChange(pinDir)
	if err != nil {
		return err
	}
	defer i.Close()
	switch what {
	case "feed-odd", "feed-even":
		return loadState(i, what == "feed-odd")
	case "feed-rm":
		_, _, err := i.RemoveFeed("flood")
		return err
	case "limit":
		return i.SetLimit(loose())
	case "concurrent":
		return setConcurrent(i, 100)
	case "block":
		return i.Add(datapath.Block, []datapath.Entry{{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Reason: "kill", Created: time.Now()}})
	default:
		return fmt.Errorf("unknown child %q", what)
	}
}

// start runs the test binary as a command.
func (b *bench) start(what string) *exec.Cmd {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := b.Server.Command(self)
	// Without this a child under the race detector sleeps for a second before it ends.
	cmd.Env = append(os.Environ(), childVariable+"="+what, pinDirVariable+"="+b.pinDir, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	return cmd
}

// killAt kills the command after so long and reports whether it was still at work.
func (b *bench) killAt(what string, after time.Duration) (killed bool) {
	b.t.Helper()
	return b.killStarted(what, b.start(what), after)
}

func (b *bench) killStarted(what string, cmd *exec.Cmd, after time.Duration) (killed bool) {
	b.t.Helper()
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.Exited()) {
		b.t.Fatalf("%s failed by itself: %v", what, err)
	}
	return err != nil
}

// duration is how long a command takes when nobody kills it.
func (b *bench) duration(what string) time.Duration {
	b.t.Helper()
	start := time.Now()
	if err := b.start(what).Wait(); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
	return time.Since(start)
}

// How often a command is killed; a VM without hardware support takes ten times as long for each.
const (
	kills   = 25
	killsVM = 4
)

// randomKills calls test with moments spread at random over the command's run. The seed is logged and
// set by SYNWARD_TEST_SEED.
func randomKills(t *testing.T, whole time.Duration, test func(after time.Duration)) {
	t.Helper()
	randomMoments(t, often(kills, killsVM), whole, test)
}

func randomMoments(t *testing.T, times int, whole time.Duration, test func(after time.Duration)) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("SYNWARD_TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d, the command takes %v", seed, whole)
	random := rand.New(rand.NewPCG(seed, 0))
	for range times {
		test(time.Duration(random.Int64N(int64(whole) * 5 / 4)))
	}
}

// inForce tells what the kernel does now: nil if nothing is attached, else the policy of an interface
// that is whole.
func (b *bench) inForce() *datapath.Policy {
	b.t.Helper()
	var p datapath.Policy
	err := b.Server.Do(func() error {
		i, err := datapath.Open(b.pinDir)
		if err != nil {
			return err
		}
		defer i.Close()
		all, err := i.Interfaces()
		if err != nil || len(all) != 1 || !all[0].Armed {
			return fmt.Errorf("half-made: %+v %w", all, err)
		}
		p, err = i.Policy()
		return err
	})
	if errors.Is(err, datapath.ErrNotAttached) {
		return nil
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return &p
}

func TestKillAttach(t *testing.T) {
	for _, what := range []string{"attach", "attach-tc"} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t, testenv.PairOptions{})
			whole := b.duration(what)
			outcomes := map[string]int{}
			randomKills(t, whole, func(after time.Duration) {
				if _, err := datapath.DetachAll(b.pinDir); err != nil {
					t.Fatal(err)
				}
				b.mustBeGone()
				killed := b.killAt(what, after)
				p := b.inForce()
				outcomes[fmt.Sprintf("killed %v, attached %v", killed, p != nil)]++
				if l := limitOf(p); p != nil && (l == nil || *l != *tight()) {
					t.Errorf("attached without its limit: %+v", p)
				}
				if err := b.start(what).Wait(); err != nil {
					t.Errorf("the next attach: %v", err)
				}
				if l := limitOf(b.inForce()); l == nil || *l != *tight() {
					t.Errorf("after the next attach: %+v", l)
				}
			})
			t.Log(outcomes)
		})
	}
}

func TestKillLimit(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, tight())
	f := bothFamilies()["IPv4"]
	server := b.server(f.server, testenv.ServerOptions{})
	whole := b.duration("limit")
	randomKills(t, whole, func(after time.Duration) {
		b.change(func(i *datapath.Instance) error { return i.SetLimit(tight()) })
		b.killAt("limit", after)
		l := limitOf(b.inForce())
		if l == nil || *l != *tight() && *l != *loose() {
			t.Fatalf("neither the old limit nor the new one: %+v", l)
		}
		b.change(func(i *datapath.Instance) error { return i.Forget(f.client) })
		admitted := 0
		for range 5 {
			if b.connect(server, f.client) == nil {
				admitted++
			}
		}
		if want := min(5, int(l.Burst)); admitted != want {
			t.Errorf("limit %v admitted %d of 5, want %d", l, admitted, want)
		}
	})
}

func TestKillBlock(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, nil)
	blocked := netip.MustParsePrefix("192.0.2.7/32")
	whole := b.duration("block")
	randomKills(t, whole, func(after time.Duration) {
		b.change(func(i *datapath.Instance) error {
			_, err := i.Remove(datapath.Block, []netip.Prefix{blocked})
			return err
		})
		b.killAt("block", after)
		b.change(func(i *datapath.Instance) error {
			entries, err := i.Entries(datapath.Block)
			if len(entries) > 1 || len(entries) == 1 && (entries[0].Prefix != blocked || entries[0].Reason != "kill") {
				t.Errorf("half-made: %+v", entries)
			}
			return err
		})
	})
}

func TestKillDetach(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		b := newBench(t, testenv.PairOptions{})
		b.attach(mode, tight())
		whole := b.duration("detach")
		randomKills(t, whole, func(after time.Duration) {
			b.attach(mode, tight())
			b.killAt("detach", after)
			b.inForce()
			if err := b.start("detach").Wait(); err != nil {
				t.Fatalf("the next detach: %v", err)
			}
			b.mustBeGone()
			testenv.WaitFor(t, time.Second, "the program to leave", func() bool {
				nl, err := b.Server.Netlink().LinkByName(b.ServerIf)
				return err == nil && (nl.Attrs().Xdp == nil || !nl.Attrs().Xdp.Attached)
			})
		})
	})
}
