// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// loadAtOnce is how many prefixes the loading process puts on the list by one command.
const loadAtOnce = 256

// loaded is the n-th prefix: three hosts, then a longer prefix and so on, each in a /24 of its own.
func loaded(n uint32) netip.Prefix {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 20<<24+n<<8)
	return netip.PrefixFrom(netip.AddrFrom4(b), []int{32, 32, 32, 24 + int(n/4%8)}[n%4])
}

// loadForEver blocks ever more prefixes, command after command, and says after each how many there are.
func loadForEver(pinDir string) error {
	for n := uint32(0); ; n += loadAtOnce {
		i, err := datapath.OpenForChange(pinDir)
		if err != nil {
			return err
		}
		entries := make([]datapath.Entry, loadAtOnce)
		for at := range entries {
			entries[at] = datapath.Entry{Prefix: loaded(n + uint32(at))}
		}
		if err := i.Load(datapath.Block, entries); err != nil {
			return err
		}
		if err := i.Close(); err != nil {
			return err
		}
		if _, err := fmt.Println(n + loadAtOnce); err != nil {
			return err
		}
	}
}

// startLoading runs a process that loads, and follows how far it is.
func (b *bench) startLoading(done *atomic.Uint32) (stop func()) {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := b.Server.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"=load", pinDirVariable+"="+b.pinDir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			n, err := strconv.ParseUint(lines.Text(), 10, 32)
			if err != nil {
				b.t.Errorf("the loading process says %q", lines.Text())
			}
			done.Store(uint32(n))
		}
	})
	return func() {
		_ = cmd.Process.Kill()
		reader.Wait()
		_ = cmd.Wait()
	}
}

// attachedProgram is the one that the interface's packets meet.
func (b *bench) attachedProgram() *ebpf.Program {
	b.t.Helper()
	pins, err := filepath.Glob(filepath.Join(b.pinDir, "progs", "*"))
	if err != nil || len(pins) != 1 {
		b.t.Fatalf("programs %v: %v", pins, err)
	}
	prog, err := ebpf.LoadPinnedProgram(pins[0], nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { prog.Close() })
	return prog
}

// While one process loads a list and others rebuild the index, some of them killed, no packet of an address passes
// that a command has blocked and returned.
func TestLoadBesideCompact(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, nil)
	var done atomic.Uint32
	stopLoading := b.startLoading(&done)
	defer stopLoading()
	testenv.WaitFor(t, time.Minute, "the first load", func() bool { return done.Load() > 0 })
	var judged atomic.Uint64
	var stop atomic.Bool
	var judge sync.WaitGroup
	prog := b.attachedProgram()
	judge.Go(func() {
		for n := uint32(0); !stop.Load() && judgeLoaded(t, prog, n%done.Load()) && judgeLoaded(t, prog, done.Load()-1); n += 7 {
			judged.Add(2)
		}
	})
	whole := b.duration("compact")
	randomKills(t, whole, func(after time.Duration) {
		before := done.Load()
		b.killAt("compact", after)
		b.change(func(i *datapath.Instance) error {
			_, err := i.Compact()
			return err
		})
		testenv.WaitFor(t, time.Minute, "another load", func() bool { return stop.Load() || done.Load() > before })
	})
	stop.Store(true)
	judge.Wait()
	t.Logf("%d prefixes loaded, %d packets judged", done.Load(), judged.Load())
	for n := range done.Load() {
		if !judgeLoaded(t, prog, n) {
			break
		}
	}
}

// judgeLoaded wants a packet from the n-th prefix to be dropped.
func judgeLoaded(t *testing.T, prog *ebpf.Program, n uint32) bool {
	src, dst := netip.AddrPortFrom(loaded(n).Addr(), 40000), netip.MustParseAddrPort("192.0.2.1:443")
	got, err := prog.Run(&ebpf.RunOptions{Data: tg.Segment(src, dst, tg.ACK).Bytes()})
	const xdpDrop = 1
	if err != nil || got != xdpDrop {
		t.Errorf("%v is blocked, and a packet of it got verdict %d (%v)", src.Addr(), got, err)
		return false
	}
	return true
}
