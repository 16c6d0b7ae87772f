// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// variant is how a frame is judged, packed into a number so that a fuzzer can choose it: bits 0 and 1
// the mode, 2 and 3 what is blocked, 4 and 5 both set for the program without a link header, 6 the order
// of the hooks, 7 whether the ledger knows the source already, 8 to 30 how much of the frame lies in the
// first buffer, 31 the programs that have every feature.
type variant uint32

const (
	blockSource = 2
	blockDecoy  = 3
)

func (v variant) mode() int   { return int(v & 3) }
func (v variant) block() int  { return int(v >> 2 & 3) }
func (v variant) bare() bool  { return v>>4&3 == 3 }
func (v variant) known() bool { return v>>7&1 == 1 }

// general is the bit of the programs that have every feature.
const general variant = 1 << 31

func (v variant) general() bool { return v&general != 0 }
func (v variant) hooks() []fuzzHook {
	switch {
	case v.bare():
		return []fuzzHook{fuzzBare, fuzzBare}
	case v>>6&1 == 1:
		return []fuzzHook{fuzzTC, fuzzXDP}
	}
	return []fuzzHook{fuzzXDP, fuzzTC}
}

// linear is how many bytes of a frame lie in the first buffer; 0 is all.
func (v variant) linear(size int) int {
	if n := int(v &^ general >> 8); n > 0 && size > 14 {
		return 14 + n%(size-14)
	}
	return 0
}

// trial is one frame in one variant, and what is to come of it: two runs, so that a new connection is
// admitted by the first and over the limit in the second, whichever hooks they meet.
type trial struct {
	*fuzzLab
	frame             []byte
	variant           variant
	want              reference
	admitted, refused uint64 // what the ledger is to hold
}

// errNoVerdict: the frame means something else to Program.Run than it would on a device.
var errNoVerdict = errors.New("no verdict")

// compare runs a frame through the programs and says in which way they differ from the reference.
func (l *fuzzLab) compare(frame []byte, v variant) (reference, error) {
	x := &trial{fuzzLab: l, frame: frame, variant: v, want: referEthernet(frame, v.general())}
	if v.bare() {
		var ok bool
		if x.want, ok = referBare(frame, v.general()); !ok {
			return x.want, errNoVerdict
		}
	}
	if err := x.prepare(); err != nil {
		return x.want, err
	}
	runs := 0
	for _, h := range v.hooks() {
		ran, err := x.judge(h, runs)
		if err != nil {
			return x.want, errors.Join(fmt.Errorf("%s, run %d: %w", h.name, runs+1, err), x.clear())
		}
		runs += ran
	}
	return x.want, errors.Join(x.checkMeter(), x.checkLedger(), x.clear())
}

func (x *trial) prepare() error {
	x.control.Word = live{generation: uint16(x.variant.mode())}.word()
	if x.want.source == nil {
		return nil
	}
	if x.isKnown() {
		if err := x.maps.Sources.Put(x.sourceKey(), limiterSource{}); err != nil {
			return err
		}
	}
	if x.variant.block() < blockSource {
		return nil
	}
	hosts := uint64(limiterListIndexBitsINDEX_HOSTS)
	x.control.Lists = hosts | hosts<<limiterListIndexBitsINDEX_FAMILY_BITS
	return x.maps.BlockHosts.Put(x.blockKey(), limiterListEntry{Prefixlen: 8 * uint32(len(x.want.source)), Listed: 1})
}

// isKnown says whether the ledger has a line of the source before the first run.
func (x *trial) isKnown() bool { return x.want.source != nil && x.variant.known() }

func (x *trial) clear() error {
	clear(x.meters)
	x.control.Lists = 0
	var errs []error
	if x.want.source != nil && x.variant.block() >= blockSource {
		errs = append(errs, x.maps.BlockHosts.Delete(x.blockKey()))
	}
	return errors.Join(errs...)
}

// blockKey is the host entry of the source, or of the address beside it, which must not matter.
func (x *trial) blockKey() limiterPrefixKey {
	a := slices.Clone(x.want.source)
	if x.variant.block() == blockDecoy {
		a[len(a)-1] ^= 1
	}
	return limiterPrefixKey{Prefixlen: 8 * uint32(len(a)), Addr: rawAddr(a)}
}

// rawAddr is an address as it stands in a packet: an IPv4-mapped one in IPv6 is one of IPv6.
func rawAddr(a []byte) limiterAddr {
	out := limiterAddr{Family: 6}
	if len(a) == 4 {
		out.Family = 4
	}
	for at := range len(a) / 4 {
		out.Word[at] = binary.NativeEndian.Uint32(a[4*at:])
	}
	return out
}

// masked is the source as a /32 or a /64.
func (x *trial) masked() []byte {
	a := slices.Clone(x.want.source)
	if len(a) == 16 {
		clear(a[8:])
	}
	return a
}

// sourceKey is the line of the ledger that the frame adds to: a new connection's is that of the service,
// unless its source is blocked.
func (x *trial) sourceKey() limiterSourceKey {
	key := limiterSourceKey{Addr: rawAddr(x.masked()), Service: uint32(limiterAbiSERVICE_IDS)}
	if x.want.isNew() && x.variant.block() != blockSource {
		key.Service = x.service
	}
	return key
}

// judge runs the frame once and holds the end of it against the reference. ran is 0 where the kernel
// makes no skb of so short a frame.
func (x *trial) judge(h fuzzHook, runs int) (ran int, err error) {
	linear := 0
	if h == fuzzXDP && x.splits {
		linear = x.variant.linear(len(x.frame))
	}
	verdict, err := x.run(fuzzProgram{h.name, x.variant.general()}, x.frame, linear)
	if errors.Is(err, unix.EINVAL) && h.hook == hookTCX && len(x.frame) < 14+40 {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	got, err := x.moved(h, len(x.frame))
	if err != nil {
		return 0, err
	}
	want := x.end(runs)
	switch {
	case got != want:
		return 0, fmt.Errorf("ended as %v, want %v", got, want)
	case verdict != want.verdict(h):
		return 0, fmt.Errorf("%v returned %d, want %d", got, verdict, want.verdict(h))
	case !bytes.Equal(x.out, x.frame):
		return 0, fmt.Errorf("bytes changed to %x", x.out)
	}
	return 1, nil
}

// end is how the frame is to end when it was judged runs times before, and what that adds to the ledger.
func (x *trial) end(runs int) fuzzEnd {
	reason, refused := x.want.reason, x.want.refused
	listed := !refused && x.want.source != nil
	switch {
	case listed && x.variant.block() == blockSource:
		reason, refused = limiterReasonREASON_BLOCKED, true
	case x.want.isBroken():
		refused = x.variant.mode()&fuzzStrict != 0
	case x.want.isNew() && runs > 0:
		reason, refused = limiterReasonREASON_OVER_NEW, true
	case x.want.isNew():
		x.admitted++
	}
	if !refused {
		return fuzzEnd{reason, limiterActionACTION_PASS}
	}
	// A refusal for its shape makes no line in the ledger, for anybody can forge it.
	if x.isKnown() || reason == limiterReasonREASON_BLOCKED || x.want.isNew() {
		x.refused++
	}
	if x.variant.mode()&fuzzObserve != 0 {
		return fuzzEnd{reason, limiterActionACTION_OBSERVE}
	}
	return fuzzEnd{reason, limiterActionACTION_DROP}
}

// checkMeter: the meters hold the source of an admitted connection, once, and nothing else.
func (x *trial) checkMeter() error {
	var slots []uint64
	for _, slot := range x.meters {
		if slot != 0 {
			slots = append(slots, slot)
		}
	}
	if x.admitted == 0 {
		if len(slots) > 0 {
			return fmt.Errorf("meters hold %x, want nothing", slots)
		}
		return nil
	}
	source, _ := netip.AddrFromSlice(x.masked())
	tag := hashAddr(&x.control.Hash, x.limit.Seed, source) & slotTag
	if len(slots) != 1 || slots[0]&slotTag != tag {
		return fmt.Errorf("meters hold %x, want one slot of tag %x for %s", slots, tag, source)
	}
	return nil
}

// checkLedger: the ledger holds what was counted for the source, and nothing else; it is empty then.
func (x *trial) checkLedger() error {
	if x.admitted+x.refused > 0 || x.isKnown() {
		var s limiterSource
		if err := x.maps.Sources.LookupAndDelete(x.sourceKey(), &s); err != nil {
			return fmt.Errorf("ledger line of %x: %w", x.want.source, err)
		}
		if s.Admitted != x.admitted || s.Refused != x.refused || s.Flags != 0 {
			return fmt.Errorf("ledger holds %+v, want %d admitted and %d refused", s, x.admitted, x.refused)
		}
	}
	var other limiterSourceKey
	err := x.maps.Sources.NextKey(nil, &other)
	if isMissing(err) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("ledger holds %+v too", other)
	}
	return errors.Join(err, x.maps.Sources.Delete(other))
}
