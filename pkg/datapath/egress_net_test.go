// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// egress is what runs at the server's egress.
func (b *bench) egress() (programs int, clsact bool) {
	b.t.Helper()
	err := b.Server.Do(func() error {
		ours, there := datapath.EgressPrograms(b.t, b.ServerIf)
		programs, clsact = len(ours), there
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return programs, clsact
}

func (b *bench) mustHaveEgress(want int, when string) {
	b.t.Helper()
	if n, _ := b.egress(); n != want {
		b.t.Errorf("%s: %d programs at egress, want %d", when, n, want)
	}
	if i := b.one(); !i.Armed {
		b.t.Errorf("%s: %+v, want it armed", when, i)
	}
}

// The second hook is there while a policy needs it, also one that may come back, and no longer.
func TestEgressComesAndGoes(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		b := newBench(t, testenv.PairOptions{})
		b.attach(mode, nil)
		_, had := b.egress()
		b.mustHaveEgress(0, "attached")
		for range 2 {
			b.apply(countsAll)
			b.mustHaveEgress(1, "a limit counts what is sent")
			b.apply(countsMore)
			b.mustHaveEgress(1, "a policy that needs more")
			b.apply(countsNothing)
			b.mustHaveEgress(0, "no limit counts it any more")
			if _, has := b.egress(); has != had {
				t.Errorf("clsact: %v, was %v", has, had)
			}
		}
		b.applyFor(countsAll, time.Minute)
		b.mustHaveEgress(1, "the policy waits")
		b.change(func(i *datapath.Instance) error { _, err := i.Rollback(1, "test"); return err })
		b.mustHaveEgress(0, "rolled back")
		b.apply(countsAll)
		b.applyFor(countsNothing, time.Minute)
		b.mustHaveEgress(1, "the policy before may come back")
		b.change(func(i *datapath.Instance) error { _, err := i.Confirm(); return err })
		b.mustHaveEgress(0, "confirmed")
		b.apply(countsAll)
		b.detachAll()
		b.mustBeGone()
		if n, clsact := b.egress(); n != 0 || clsact {
			t.Errorf("detached: %d programs at egress, clsact %v", n, clsact)
		}
	})
}

func (b *bench) applyFor(text string, confirm time.Duration) {
	b.t.Helper()
	p := parsePolicy(b.t, text)
	b.change(func(i *datapath.Instance) error {
		return i.Apply(datapath.ApplyOptions{Policy: p, By: "test", Confirm: confirm})
	})
}

func (b *bench) detachAll() {
	b.t.Helper()
	if _, err := datapath.DetachAll(b.pinDir); err != nil {
		b.t.Fatal(err)
	}
}

// inServer runs fn on the instance from inside the server's namespace.
func (b *bench) inServer(fn func(i *datapath.Instance)) {
	b.t.Helper()
	b.change(func(i *datapath.Instance) error { fn(i); return nil })
}

// A second hook that somebody took away is said, and the next attach mends it; by clsact all is the same.
func TestEgressIsMended(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for _, clsact := range []bool{false, true} {
			b := newBench(t, testenv.PairOptions{})
			b.attach(mode, nil)
			b.apply(countsAll)
			if clsact {
				b.inServer(func(i *datapath.Instance) { i.PutEgressByClsact(t, b.ServerIf) })
				b.apply(countsMore)
			}
			b.mustHaveEgress(1, "before")
			b.inServer(func(i *datapath.Instance) { i.LoseEgress(t, b.ServerIf) })
			if i := b.one(); i.Armed || i.Why == "" {
				t.Errorf("clsact %v, taken off: %+v, want it not armed, and why", clsact, i)
			}
			if got := b.attach(datapath.ModeAuto, nil); !got.Mended || got.Unchanged || !got.Interface.Armed {
				t.Errorf("attach: %+v, want it mended", got)
			}
			b.mustHaveEgress(1, "mended")
			if clsact {
				b.inServer(func(i *datapath.Instance) { i.PutEgressByClsact(t, b.ServerIf) })
			}
			f := bothFamilies()["IPv4"]
			b.download(f, 1_000_000, 0)
			if owed := b.owed(f.client); owed < 1_000_000 || owed > 1_200_000 {
				t.Errorf("clsact %v: %.0f bytes are owed for a megabyte", clsact, owed)
			}
			b.apply(countsNothing)
			b.mustHaveEgress(0, "no limit counts it any more")
			b.apply(countsAll)
			if clsact {
				b.inServer(func(i *datapath.Instance) { i.PutEgressByClsact(t, b.ServerIf) })
			}
			b.detachAll()
			b.mustBeGone()
			if n, left := b.egress(); n != 0 || left {
				t.Errorf("clsact %v, detached: %d programs at egress, clsact %v", clsact, n, left)
			}
		}
	})
}

// Attached under such a policy, an interface has both hooks at once; one that was deleted and made again gets them anew.
func TestEgressOfAnInterfaceThatComesBack(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, nil)
	b.apply(countsAll)
	err := b.Server.Do(func() error {
		_, err := datapath.Attach(datapath.AttachOptions{PinDir: b.pinDir, Interface: "lo", Mode: datapath.ModeTC})
		if err == nil {
			if ours, _ := datapath.EgressPrograms(t, "lo"); len(ours) != 1 {
				t.Errorf("lo has %d programs at egress, want 1", len(ours))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	nl, err := b.Server.Netlink().LinkByName(b.ServerIf)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Server.Netlink().LinkDel(nl); err != nil {
		t.Fatal(err)
	}
	b.apply(countsMore) // the interface that is gone stops nothing
	testenv.Veth(t, b.Server, b.ServerIf, b.Client, b.ClientIf)
	if got := b.attach(datapath.ModeNative, nil); !got.Mended {
		t.Errorf("attach: %+v, want it mended", got)
	}
	if n, _ := b.egress(); n != 1 {
		t.Errorf("%d programs at egress, want 1", n)
	}
	b.detachAll()
	b.mustBeGone()
}
