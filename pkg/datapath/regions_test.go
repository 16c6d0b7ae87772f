// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"pgregory.net/rapid"
)

// Regions never meet, kept ones stay, and two policies in a row find room whatever they ask for.
func TestRegionsNeverMeet(t *testing.T) {
	testSeed(t)
	rapid.Check(t, func(t *rapid.T) {
		before := map[regionClass]region{}
		for round := range rapid.IntRange(1, 12).Draw(t, "policies") {
			wanted := map[regionClass]uint32{}
			kept := map[regionClass]region{}
			var taken []region
			for class, r := range before {
				taken = append(taken, r)
				if rapid.Bool().Draw(t, "stays") {
					wanted[class], kept[class] = r.buckets, r
				}
			}
			for n := range rapid.IntRange(0, 12).Draw(t, "new classes") {
				wanted[regionClass{uint8(round), uint64(n)}] = rapid.Uint32Range(1, 1<<17).Draw(t, "buckets")
			}
			got, err := allot(wanted, kept, taken)
			if err != nil {
				t.Fatalf("policy %d: %v", round, err)
			}
			checkRegions(t, wanted, kept, taken, got)
			before = got
		}
	})
}

func checkRegions(t *rapid.T, wanted map[regionClass]uint32, kept map[regionClass]region, taken []region, got map[regionClass]region) {
	if len(got) != len(wanted) {
		t.Fatalf("%d regions for %d classes", len(got), len(wanted))
	}
	for class, r := range got {
		if r.buckets == 0 || r.buckets&(r.buckets-1) != 0 || r.first+r.buckets > uint32(limiterAbiMETER_BUCKETS) {
			t.Fatalf("region %v makes no sense", r)
		}
		if old, ok := kept[class]; ok && old != r {
			t.Fatalf("kept region %v moved to %v", old, r)
		}
		for _, other := range taken {
			if _, ok := kept[class]; !ok && r.meets(other) {
				t.Fatalf("new region %v meets %v, which the policy in force reads", r, other)
			}
		}
		for other, o := range got {
			if other != class && r.meets(o) {
				t.Fatalf("regions %v and %v meet", r, o)
			}
		}
	}
}
