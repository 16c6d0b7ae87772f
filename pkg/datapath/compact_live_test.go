// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

//go:generate go tool bpf2go -target bpfel -output-suffix _test listsTest ../../bpf/tests/lists_test.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu

// bans puts hosts on the block list by a program, without the lock.
type bans struct {
	*programLab
	program *ebpf.Program
	// done is how many of them are on the list for good: 10.0.0.0 and those behind it.
	done atomic.Uint32
}

// bansAtOnce is how many hosts one run of the program bans, each as if by a run of its own.
const bansAtOnce = 16

func newBans(l *programLab) *bans {
	spec, err := loadListsTest()
	must(l.t, err)
	replace := map[string]*ebpf.Map{}
	for name, m := range l.maps.replacements() {
		if spec.Maps[name] != nil {
			replace[name] = m
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	must(l.t, err)
	l.t.Cleanup(coll.Close)
	return &bans{programLab: l, program: coll.Programs["ban"]}
}

func banned(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 10<<24+n)
	return netip.AddrFrom4(b)
}

func (b *bans) more() error {
	first := banned(b.done.Load()).As4()
	packet := make([]byte, 64)
	copy(packet, first[:])
	binary.NativeEndian.PutUint32(packet[4:], bansAtOnce)
	_, err := b.program.Run(&ebpf.RunOptions{Data: packet})
	b.done.Add(bansAtOnce)
	return err
}

// judge wants a packet of a host that is banned to be dropped, one after the other, the last one most.
func (b *bans) judge(prog *ebpf.Program, n uint32) bool {
	frame := segment4(tg.ACK).Bytes()
	addr := banned(n).As4()
	copy(frame[14+12:], addr[:])
	got, err := prog.Run(&ebpf.RunOptions{Data: frame})
	if err != nil || got != xdpDrop {
		b.t.Errorf("%v, which is banned: verdict %d (%v); index word %#x", banned(n), got, err, atomic.LoadUint64(&b.control.Lists))
	}
	return err == nil && got == xdpDrop
}

// rebuilds is how often the index is built anew in these tests.
const rebuilds = 24

// While a program bans and the index is built anew again and again, also by rebuilds that are killed behind each
// of their steps, no packet of a banned host passes.
func TestNoPacketPassesARebuild(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	b, prog := newBans(l), l.program(hookXDP)
	var stop atomic.Bool
	var all sync.WaitGroup
	work := func(f func() bool) {
		all.Go(func() {
			for !stop.Load() && f() {
				runtime.Gosched()
			}
		})
	}
	must(t, b.more())
	const most = 200_000
	work(func() bool { return b.done.Load() >= most || b.more() == nil })
	turn := uint32(0)
	judged := 0
	work(func() bool {
		done := b.done.Load()
		turn = (turn*5 + 7) % done
		judged += 2
		return b.judge(prog, done-1) && b.judge(prog, turn)
	})
	steps := len(l.rebuildSteps())
	for n := range rebuilds {
		for _, step := range l.rebuildSteps()[:1+n%steps] {
			must(t, step())
		}
	}
	_, err := l.Compact()
	stop.Store(true)
	all.Wait()
	must(t, err)
	for n := range b.done.Load() {
		if !b.judge(prog, n) {
			break
		}
	}
	t.Logf("%d hosts banned, %d packets judged meanwhile", b.done.Load(), judged)
}

// An entry that has ended is gone behind `block compact`, with its note; what policies name and what has not ended
// stays, and an address that was listed before costs no look-up any more.
func TestCompactDeletesWhatHasEnded(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	must(t, l.Add(Block, []Entry{
		entry("192.0.2.0/24", lapsed), entry("198.51.100.7/32", lapsed), entry("2001:db8::/64", lapsed), entry("203.0.113.9/32", longest),
	}))
	must(t, l.setPolicyBit(Allow, []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48")}, l.slot()))
	deleted, err := l.Compact()
	must(t, err)
	if deleted != 3 {
		t.Errorf("%d entries deleted, want 3", deleted)
	}
	left, notes := 0, 0
	for _, m := range []*ebpf.Map{l.maps.AllowHosts, l.maps.AllowPrefixes, l.maps.BlockHosts, l.maps.BlockPrefixes} {
		must(t, eachEntry(m, func(limiterPrefixKey, limiterListEntry) { left++ }))
	}
	var key limiterListNoteKey
	var note limiterListNote
	for iter := l.maps.ListNotes.Iterate(); iter.Next(&key, &note); {
		notes++
	}
	if left != 2 || notes != 1 {
		t.Errorf("%d entries and %d notes are left, want 2 and 1", left, notes)
	}
	const bits = uint64(limiterListIndexBitsINDEX_HOLDS_BITS)
	hosts4 := uint64(limiterListIndexBitsINDEX_HOSTS)
	prefixes6 := uint64(limiterListIndexBitsINDEX_PREFIXES) << limiterListIndexBitsINDEX_FAMILY_BITS
	if holds := l.control.Lists & (1<<bits - 1); holds != hosts4|prefixes6 {
		t.Errorf("the index says that the lists hold %#x, want IPv4 hosts and IPv6 prefixes", holds)
	}
	for at, word := range l.spare().other().tablesOf()[1] {
		if word != 0 {
			t.Fatalf("word %d of the index of IPv4 prefixes is %#x, and there are none", at, word)
		}
	}
}

func (h indexHalf) other() indexHalf { return indexHalf{h.memory, 1 - h.number} }
