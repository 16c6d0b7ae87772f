// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// one wants exactly one attached interface and returns it.
func (b *bench) one() datapath.Interface {
	b.t.Helper()
	all := b.interfaces()
	if len(all) != 1 {
		b.t.Fatalf("attached: %+v, want one interface", all)
	}
	return all[0]
}

func (b *bench) mustBeGone() {
	b.t.Helper()
	if _, err := datapath.Open(b.pinDir); !errors.Is(err, datapath.ErrNotAttached) {
		b.t.Errorf("open after detach: %v, want ErrNotAttached", err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(b.pinDir), "synward*"))
	if err != nil || len(left) != 0 {
		b.t.Errorf("left on the BPF file system: %v %v", left, err)
	}
}

// The second attach of the same changes nothing; the last detach leaves no pin and no program.
func TestAttachTwiceDetachLeavesNothing(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		b := newBench(t, testenv.PairOptions{})
		first := b.attach(mode, rate(1, time.Hour, 1))
		if first.Unchanged || first.Interface.Mode != mode || !first.Interface.Armed {
			t.Errorf("first attach: %+v", first)
		}
		again := b.attach(datapath.ModeAuto, rate(1, time.Hour, 1))
		if !again.Unchanged || !again.Interface.AttachedAt.Equal(first.Interface.AttachedAt) {
			t.Errorf("second attach: %+v", again)
		}
		if i := b.one(); !i.Armed || i.Mode != mode || i.Name != b.ServerIf {
			t.Errorf("interface: %+v", i)
		}
		found, err := false, error(nil)
		_ = b.Server.Do(func() error { found, err = datapath.Detach(b.pinDir, b.ServerIf); return nil })
		if err != nil || !found {
			t.Fatalf("detach: %v %v", found, err)
		}
		b.mustBeGone()
		b.mustHaveNoProgram()
	})
}

func (b *bench) mustHaveNoProgram() {
	b.t.Helper()
	nl, err := b.Server.Netlink().LinkByName(b.ServerIf)
	if err != nil {
		b.t.Fatal(err)
	}
	if xdp := nl.Attrs().Xdp; xdp != nil && xdp.Attached {
		b.t.Errorf("an XDP program is left: %+v", xdp)
	}
	qdiscs, err := b.Server.Netlink().QdiscList(nl)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			b.t.Errorf("clsact is left")
		}
	}
}

// The auto mode takes native XDP where the interface can do it.
func TestAutoTakesNative(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	if got := b.attach(datapath.ModeAuto, nil); got.Interface.Mode != datapath.ModeNative || len(got.Refused) != 0 {
		t.Errorf("auto on a veth: %+v", got)
	}
}

// foreignXDP puts somebody else's program on the server's interface, until it is taken off.
func (b *bench) foreignXDP() (id ebpf.ProgramID, takeOff func()) {
	b.t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "somebody_else", Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { prog.Close() })
	index, err := b.ServerIndex()
	if err != nil {
		b.t.Fatal(err)
	}
	var l link.Link
	err = b.Server.Do(func() (err error) {
		l, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: index, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { l.Close() })
	info, err := prog.Info()
	if err != nil {
		b.t.Fatal(err)
	}
	id, _ = info.ID()
	return id, func() {
		if err := l.Detach(); err != nil {
			b.t.Fatal(err)
		}
	}
}

// Somebody else's XDP program is named and left alone; TC works beside it.
func TestForeignProgramIsLeftAlone(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	id, _ := b.foreignXDP()
	for _, mode := range []datapath.Mode{datapath.ModeAuto, datapath.ModeNative, datapath.ModeGeneric} {
		_, err := b.tryAttach(mode, rate(1, time.Hour, 1))
		if !errors.Is(err, datapath.ErrRefused) || !strings.Contains(err.Error(), "somebody_else") || !strings.Contains(err.Error(), "--mode tc") {
			t.Errorf("attach %s: %v", mode, err)
		}
		b.mustBeGone()
	}
	b.attach(datapath.ModeTC, rate(1, time.Hour, 1))
	f := bothFamilies()["IPv4"]
	server := b.server(f.server, testenv.ServerOptions{})
	b.mustConnect(server, f.client)
	b.mustNotConnect(server, f.client)
	nl, err := b.Server.Netlink().LinkByName(b.ServerIf)
	if err != nil {
		t.Fatal(err)
	}
	if xdp := nl.Attrs().Xdp; xdp == nil || ebpf.ProgramID(xdp.ProgId) != id {
		t.Errorf("the other program is gone: %+v", xdp)
	}
}

// bpffs names hold no dot; interface names may.
func TestInterfaceNameWithADot(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	nl, err := b.Server.Netlink().LinkByName(b.ServerIf)
	if err != nil {
		t.Fatal(err)
	}
	h := b.Server.Netlink()
	if err := errors.Join(h.LinkSetDown(nl), h.LinkSetName(nl, "eth0.100"), h.LinkSetUp(nl)); err != nil {
		t.Fatal(err)
	}
	b.ServerIf = "eth0.100"
	b.attach(datapath.ModeAuto, nil)
	if i := b.one(); i.Name != "eth0.100" || !i.Armed {
		t.Errorf("interface: %+v", i)
	}
}

// An interface that is deleted is said to be gone, and attach mends it when it is back.
func TestInterfaceGoesAndComesBack(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		b := newBench(t, testenv.PairOptions{})
		b.attach(mode, rate(5, time.Hour, 5))
		nl, err := b.Server.Netlink().LinkByName(b.ServerIf)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Server.Netlink().LinkDel(nl); err != nil {
			t.Fatal(err)
		}
		if i := b.one(); i.Armed || i.Why == "" || i.Traffic != datapath.TrafficNone {
			t.Errorf("while it is gone: %+v", i)
		}
		testenv.Veth(t, b.Server, b.ServerIf, b.Client, b.ClientIf)
		if i := b.one(); i.Armed {
			t.Errorf("back, but not attached: %+v", i)
		}
		if got := b.attach(mode, nil); !got.Mended || !got.Interface.Armed {
			t.Errorf("attach after it came back: %+v", got)
		}
		b.one()
		b.change(func(i *datapath.Instance) error {
			p, err := i.Policy()
			if l := limitOf(&p); l == nil || l.Burst != 5 {
				t.Errorf("the limit was lost: %+v", p)
			}
			return err
		})
	})
}

// What is attached in another namespace is shown as it is, by name, from outside.
func TestOtherNamespaceTellsTheTruth(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, nil)
	f := bothFamilies()["IPv4"]
	b.mustConnect(b.server(f.server, testenv.ServerOptions{}), f.client)
	i, err := datapath.Open(b.pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	all, err := i.Interfaces()
	if err != nil || len(all) != 1 {
		t.Fatalf("interfaces: %+v %v", all, err)
	}
	if got := all[0]; got.Netns != b.Server.Name() || !got.Armed || got.Traffic != datapath.TrafficFlowing || got.Judged == 0 || got.Judged > got.Received+64 {
		t.Errorf("from outside: %+v, want netns %s", got, b.Server.Name())
	}
}

// Attached where no packet comes in, traffic says so.
func TestWrongEndHasNoTraffic(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		b := newBench(t, testenv.PairOptions{})
		right := b.ServerIf
		idle := testenv.NewNamespace(t, "idle")
		testenv.Veth(t, b.Server, "wrong0", idle, "idle0")
		b.ServerIf = "wrong0"
		b.attach(mode, nil)
		f := bothFamilies()["IPv4"]
		server := b.server(f.server, testenv.ServerOptions{})
		b.mustConnect(server, f.client)
		if i := b.one(); !i.Armed || i.Traffic != datapath.TrafficNone || i.Judged != 0 {
			t.Errorf("at the wrong end: %+v", i)
		}
		b.ServerIf = right
		b.attach(mode, nil)
		b.mustConnect(server, f.client)
		for _, i := range b.interfaces() {
			if i.Name == right && (i.Traffic != datapath.TrafficFlowing || i.Received != i.Judged) {
				t.Errorf("at the right end: %+v", i)
			}
		}
	})
}

// Two interfaces share one limit: a source is the same by whichever it comes in.
func TestInterfacesShareOneState(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, rate(1, time.Hour, 4))
	other := testenv.NewNamespace(t, "other")
	testenv.Veth(t, b.Server, "srv1", other, "oth0")
	b.ServerIf = "srv1"
	b.attach(datapath.ModeTC, nil)
	if all := b.interfaces(); len(all) != 2 || !all[0].Armed || !all[1].Armed {
		t.Fatalf("interfaces: %+v", all)
	}
	names, err := datapath.DetachAll(b.pinDir)
	if err != nil || len(names) != 2 {
		t.Errorf("detach --all: %v %v", names, err)
	}
	b.mustBeGone()
}

// What a killed command leaves behind harms nobody and is gone after the next attach.
func TestLeftoversOfAKill(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, nil)
	links := filepath.Join(b.pinDir, "links")
	pins, err := os.ReadDir(links)
	if err != nil || len(pins) != 1 {
		t.Fatalf("links: %v %v", pins, err)
	}
	// As if killed after the program was pinned and before the link was.
	if err := os.Remove(filepath.Join(links, pins[0].Name())); err != nil {
		t.Fatal(err)
	}
	if _, err := datapath.Open(b.pinDir); !errors.Is(err, datapath.ErrNotAttached) {
		t.Errorf("open: %v", err)
	}
	if err := os.Mkdir(b.pinDir+"-new-0123456789abcdef", 0o700); err != nil {
		t.Fatal(err)
	}
	if got := b.attach(datapath.ModeNative, rate(1, time.Hour, 1)); !got.Interface.Armed {
		t.Errorf("attach over leftovers: %+v", got)
	}
	if _, err := datapath.DetachAll(b.pinDir); err != nil {
		t.Fatal(err)
	}
	b.mustBeGone()
}

// Errors name the way out and leave nothing behind.
func TestAttachRefusesBadInput(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	type row struct {
		pinDir, iface string
		mode          datapath.Mode
		want          error
		says          string
	}
	rows := map[string]row{
		"no such interface": {b.pinDir, "nosuch0", datapath.ModeAuto, datapath.ErrInvalid, "nosuch0"},
		"unknown mode":      {b.pinDir, b.ServerIf, "turbo", datapath.ErrInvalid, "native"},
		"no bpffs":          {t.TempDir() + "/synward", b.ServerIf, datapath.ModeAuto, nil, "mount -t bpf"},
		"dot in the name":   {b.pinDir + ".d", b.ServerIf, datapath.ModeAuto, datapath.ErrInvalid, "dot"},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			err := b.Server.Do(func() error {
				_, err := datapath.Attach(datapath.AttachOptions{PinDir: r.pinDir, Interface: r.iface, Mode: r.mode})
				return err
			})
			if err == nil || r.want != nil && !errors.Is(err, r.want) || !strings.Contains(err.Error(), r.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
			b.mustBeGone()
		})
	}
}

// A pin directory that someone else could have made is refused.
func TestSquattedPinDirectory(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	if err := os.Mkdir(b.pinDir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(b.pinDir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := b.tryAttach(datapath.ModeAuto, nil); !errors.Is(err, datapath.ErrRefused) {
		t.Errorf("attach: %v", err)
	}
	if err := os.Remove(b.pinDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}
