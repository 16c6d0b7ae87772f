// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Regions never meet, and policies in a row find room whatever they ask for.
func TestRegionsNeverMeet(t *testing.T) {
	testSeed(t)
	rapid.Check(t, func(t *rapid.T) {
		var before []region
		for range rapid.IntRange(1, 12).Draw(t, "policies") {
			var kept []region
			for _, r := range before {
				if rapid.Bool().Draw(t, "stays") {
					kept = append(kept, r)
				}
			}
			wanted := map[regionClass]uint32{}
			for n := range rapid.IntRange(0, 12).Draw(t, "new classes") {
				wanted[regionClass{stale: uint64(n), proven: n%2 == 0}] = rapid.Uint32Range(1, 1<<17).Draw(t, "buckets")
			}
			got, err := allot(wanted, kept, before)
			if err != nil || len(got) != len(wanted) {
				t.Fatalf("%d regions for %d classes: %v", len(got), len(wanted), err)
			}
			fresh := slices.Collect(maps.Values(got))
			checkRegions(t, fresh, before)
			before = slices.Concat(kept, fresh)
		}
	})
}

func checkRegions(t *rapid.T, fresh, before []region) {
	for n, r := range fresh {
		if r.buckets == 0 || r.buckets&(r.buckets-1) != 0 || r.first+r.buckets > uint32(limiterAbiMETER_BUCKETS) {
			t.Fatalf("region %v makes no sense", r)
		}
		for _, other := range slices.Concat(before, fresh[:n]) {
			if r.meets(other) {
				t.Fatalf("new region %v meets %v", r, other)
			}
		}
	}
}
