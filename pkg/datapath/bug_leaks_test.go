// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/synward/synward/pkg/policy"
)

// manyHosts are n addresses, others for each of first.
func manyHosts(first byte, n int) []netip.Prefix {
	out := make([]netip.Prefix, n)
	for i := range out {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], uint32(first)<<24|uint32(i))
		out[i] = netip.PrefixFrom(netip.AddrFrom4(a), 32)
	}
	return out
}

func allowing(first byte, n int) *policy.Policy {
	p := policy.Default(nil)
	p.Allow.Prefixes = manyHosts(first, n)
	p.Normalize()
	return p
}

// An apply was killed right behind its flip, and what its predecessor left is still there: the next one works.
func TestBugApplyKilledBehindItsFlipLeavesNoRoomForTheNext(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	must(t, l.Apply(ApplyOptions{Policy: allowing(10, 50_000)}))
	now := monotonicNow()
	before := l.live()
	prior, err := l.predecessor(before.inForce(now))
	must(t, err)
	c, err := compile(allowing(11, 50_000), prior)
	must(t, err)
	next := live{generation: l.nextGeneration(now)}
	must(t, l.write(c, next.generation, "killed"))
	if !l.swap(before, next) {
		t.Fatal("swap")
	}
	for range 2 {
		must(t, l.tidy())
		if err = l.Apply(ApplyOptions{Policy: allowing(12, 50_000)}); err == nil {
			return
		}
	}
	t.Errorf("the next apply never works again: %v", err)
}

// An apply that was refused because a list is full leaves it as full as it was.
func TestBugRefusedApplyLeavesTheListFull(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	if err := l.Apply(ApplyOptions{Policy: allowing(10, int(l.maps.AllowHosts.MaxEntries())+1)}); err == nil {
		t.Fatal("a policy that does not fit was applied")
	}
	must(t, l.tidy()) // what the next command begins with
	if err := l.Add(Allow, []Entry{entry("192.0.2.1/32")}); err != nil {
		t.Errorf("`allow add` right behind: %v", err)
	}
}

// Texts that are only kept for a rollback make room for the policy that is to be applied.
func TestBugOldTextsLeaveNoRoomForThePolicy(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for n := uint32(0); ; n++ { // what five large policies before leave
		key := limiterPolicyTextKey{Generation: 60000 + n%keptPolicies, Piece: n / keptPolicies}
		err := l.maps.PolicyTexts.Put(key, limiterPolicyPiece{Pieces: 1 << 13})
		if listIsFull(err) {
			break
		}
		must(t, err)
	}
	for range 3 {
		if err := l.Apply(ApplyOptions{Policy: policy.Default(onceADay(1))}); err != nil {
			t.Errorf("a policy of one limit: %v", err)
		}
	}
}

// A policy whose sets fit once and never beside another is refused at once, or the next change of anything would be.
func TestBugSetsThatFitOnlyOnce(t *testing.T) {
	p := policy.Default(nil)
	p.Sets = []policy.Set{{Name: "large", Prefixes: manyHosts(10, 600_000)}}
	p.Services[0].Allow.Sets = []string{"large"}
	p.Normalize()
	if c, err := compile(p, predecessor{}); err == nil && 2*len(c.sets) > 1<<20 {
		t.Errorf("%d prefixes of sets are accepted; two such policies have no room, so nothing can be applied after this one", len(c.sets))
	}
}
