// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/internal/trafficgen"
)

// Each case is named after a fault that was found and is seen to fail without its cure.

func (b *bench) rename(from, to string) {
	b.t.Helper()
	h := b.Server.Netlink()
	nl, err := h.LinkByName(from)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := errors.Join(h.LinkSetDown(nl), h.LinkSetName(nl, to), h.LinkSetUp(nl)); err != nil {
		b.t.Fatal(err)
	}
}

// An interface that was renamed is not stripped when another one takes its old name and is attached.
func TestAttachOfAnOldNameLeavesTheRenamedAlone(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, rate(1, time.Hour, 1))
	b.rename("srv0", "wan0")
	other := testenv.NewNamespace(t, "other")
	testenv.Veth(t, b.Server, "srv0", other, "oth0")
	if got := b.attach(datapath.ModeNative, nil); got.Mended {
		t.Errorf("attach of the old name: %+v", got)
	}
	all := b.interfaces()
	if len(all) != 2 || !all[0].Armed || !all[1].Armed {
		t.Errorf("after attach of the old name: %+v", all)
	}
}

// A mend that fails loses neither the limit nor the lists.
func TestFailedMendKeepsTheState(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, rate(5, time.Hour, 5))
	b.block(datapath.Entry{Prefix: netip.MustParsePrefix("192.0.2.0/24")})
	nl, err := b.Server.Netlink().LinkByName(b.ServerIf)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Server.Netlink().LinkDel(nl); err != nil {
		t.Fatal(err)
	}
	testenv.Veth(t, b.Server, b.ServerIf, b.Client, b.ClientIf)
	_, takeOff := b.foreignXDP()
	if _, err := b.tryAttach(datapath.ModeNative, nil); !errors.Is(err, datapath.ErrRefused) {
		t.Fatalf("attach beside a foreign program: %v", err)
	}
	takeOff()
	b.attach(datapath.ModeNative, nil)
	b.change(func(i *datapath.Instance) error {
		p, err := i.Policy()
		entries, listErr := i.Entries(datapath.Block)
		if l := limitOf(&p); l == nil || *l != *rate(5, time.Hour, 5) || len(entries) != 1 {
			t.Errorf("policy %+v, block list %+v", p, entries)
		}
		return errors.Join(err, listErr)
	})
}

// On a bpffs that is open to all, somebody else's directory of a likely name stops neither attach nor
// detach.
func TestForeignStagingDirectoryIsInNobodysWay(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	squat := b.pinDir + "-new-0123456789abcdef"
	if err := errors.Join(os.Mkdir(squat, 0o755), os.Chown(squat, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	b.attach(datapath.ModeNative, nil)
	if _, err := datapath.DetachAll(b.pinDir); err != nil {
		t.Errorf("detach --all: %v", err)
	}
	if err := os.Remove(squat); err != nil {
		t.Errorf("what was somebody else's is gone: %v", err)
	}
	b.mustBeGone()
}

// detach --all needs only links and programs, and copes with pins that it does not know.
func TestDetachAllOfDamagedPins(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		b := newBench(t, testenv.PairOptions{})
		b.attach(mode, nil)
		progs, err := os.ReadDir(filepath.Join(b.pinDir, "progs"))
		if err != nil || len(progs) != 1 {
			t.Fatalf("progs: %v %v", progs, err)
		}
		unknown := strings.TrimSuffix(progs[0].Name(), "xdp") + "egress"
		if err := os.Mkdir(filepath.Join(b.pinDir, "progs", unknown), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(b.pinDir, "maps", "service_names")); err != nil {
			t.Fatal(err)
		}
		err = b.Server.Do(func() error {
			_, err := datapath.DetachAll(b.pinDir)
			return err
		})
		if err != nil {
			t.Fatalf("detach --all: %v", err)
		}
		b.mustBeGone()
		if mode != datapath.ModeTC { // clsact may stay: who made it was written in the maps
			b.mustHaveNoProgram()
		}
	})
}

// A larger MTU after attach opens no way round: frames that come in several buffers are judged too.
func TestJumboFramesAfterAttach(t *testing.T) {
	eachModeAndFamily(t, func(b *bench, mode datapath.Mode, f family) {
		b.attach(mode, rate(1, time.Hour, 1))
		for _, end := range []struct {
			ns   *testenv.Namespace
			name string
		}{{b.Server, b.ServerIf}, {b.Client, b.ClientIf}} {
			nl, err := end.ns.Netlink().LinkByName(end.name)
			if err == nil {
				err = end.ns.Netlink().LinkSetMTU(nl, 9000)
			}
			if err != nil {
				b.t.Fatal(err)
			}
		}
		index, err := b.ClientIndex()
		if err != nil {
			b.t.Fatal(err)
		}
		syn := trafficgen.SYN(netip.AddrPortFrom(f.client, 1234), netip.AddrPortFrom(f.server, 8080))
		syn.Payload = make([]byte, 5000)
		for range 3 {
			if err := trafficgen.Send(b.Client, index, syn.Bytes()); err != nil {
				b.t.Fatal(err)
			}
		}
		testenv.WaitFor(b.t, 5*time.Second, "one SYN under and two over the limit", func() bool {
			return b.packets("under_limit") == 1 && b.packets("over_new") == 2
		})
	})
}
