// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/policy"
)

//go:generate go tool bpf2go -target bpfel -output-suffix _test rivalTest ../../bpf/tests/rival.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu

// rivals puts the programs beside a rival into the lab, for what runs from now on, and returns the word
// that says which bucket it charges.
func (l *programLab) rivals(features uint32) *uint32 {
	l.t.Helper()
	spec, err := loadRivalTest()
	must(l.t, err)
	spec.Maps[".data.rival"].Flags |= unix.BPF_F_MMAPABLE
	bucket, err := ebpf.NewMap(spec.Maps[".data.rival"])
	must(l.t, err)
	l.t.Cleanup(func() { bucket.Close() })
	word, err := mapShared[uint32](bucket)
	must(l.t, err)
	l.t.Cleanup(func() { word.close() })
	for _, h := range bothHooks {
		must(l.t, spec.Variables[limiterVarInterfaceSlot].Set(slotOf(h)))
		must(l.t, spec.Variables[limiterVarFeatures].Set(features))
		maps := l.maps.replacements()
		maps[".data.rival"] = bucket
		one := spec.Copy()
		for name := range spec.Programs {
			if name != h.program() {
				delete(one.Programs, name)
			}
		}
		coll, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{MapReplacements: maps})
		must(l.t, err)
		l.programs[programKey{h, features}] = coll.DetachProgram(h.program())
		coll.Close()
	}
	return word.value
}

// Who loses every race for its slot is refused, and the limit is not exceeded.
func TestContended(t *testing.T) {
	for _, general := range []bool{false, true} {
		l := newProgramLab(t, frozen{linkHeader: true})
		l.general = general
		l.rules(onceADay(4))
		features := l.head().Features
		if general {
			features = uint32(limiterFeatureFEATURE_ALL)
		}
		bucket := l.rivals(features)
		for _, h := range bothHooks {
			limit := l.limit(0)
			hash := hashKey(&l.control.Hash, limit, client4.Addr(), netip.Addr{})
			l.emptyMeters()
			*bucket = limit.FirstBucket + uint32(hash)&limit.BucketMask
			slot := &l.tables.Meters[*bucket].Slot[3]
			before := hash&slotTag | slotBorrowed | (monotonicNow()>>limit.UnitShift+limit.Cost)&slotTAT
			*slot = before
			l.expect(h, syn4().Bytes(), 0, isContended, "beside a rival")
			if n := *slot - before; n != 16 && n != 17 {
				t.Errorf("%s: the slot moved from %#x to %#x, which is not by 16 or 17 charges of the rival alone", h, before, *slot)
			}
			l.expectLine(ledgerKey{sourceOf(client4.Addr()), policy.DefaultService}, ledgerLine{refused: 1}, string(h))
		}
		l.expectNoOther()
	}
}
