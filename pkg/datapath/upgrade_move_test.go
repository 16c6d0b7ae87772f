// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/synward/synward/pkg/internal/testenv"
)

// newPinnedInstance is an instance that no interface is attached to.
func newPinnedInstance(t *testing.T, dir string) *Instance {
	t.Helper()
	m, err := createMaps()
	must(t, err)
	i, err := newInstance(pinDir(dir), nil, m)
	must(t, err)
	t.Cleanup(i.release)
	must(t, i.place())
	return i
}

// count puts counts where programs would: on every CPU, in a line of the ledger, at entries.
func (i *Instance) count(t *testing.T, n uint64, hit map[string]uint64, source limiterSourceKey) {
	t.Helper()
	lanes, err := ebpf.PossibleCPU()
	must(t, err)
	counts, far := make([]limiterCounts, lanes), make([]limiterCounter, lanes)
	for lane := range lanes {
		counts[lane].ByEnd[endIndex(limiterReasonREASON_BLOCKED, limiterActionACTION_DROP)].Packets = n
		counts[lane].NearLimits[3].Bytes = n
		far[lane].Packets = n
	}
	must(t, i.maps.Counters.Put(uint32(5), counts))
	must(t, i.maps.LimitCounters.Put(uint32(100), far))
	must(t, i.maps.Sources.Put(source, limiterSource{Refused: n, FirstSeenNs: 7, LastSeenNs: 9}))
	for prefix, hits := range hit {
		target, key := i.list(Block).place(netip.MustParsePrefix(prefix))
		e, found, err := i.list(Block).exact(target, key)
		must(t, err)
		if !found {
			t.Fatalf("%s is on no list", prefix)
		}
		e.Hits = hits
		must(t, target.Put(key, e))
	}
}

// Counts are moved once, however often that is begun anew, and what the data path listed behind the copy is there.
func TestMoveCounts(t *testing.T) {
	testenv.RequireRoot(t)
	lanes, err := ebpf.PossibleCPU()
	must(t, err)
	bpffs := testenv.BPFFS(t)
	old, new := newPinnedInstance(t, bpffs+"/old"), newPinnedInstance(t, bpffs+"/new")
	both := []Entry{{Prefix: netip.MustParsePrefix("192.0.2.1/32")}, {Prefix: netip.MustParsePrefix("192.0.2.0/24")}}
	must(t, old.Add(Block, both))
	must(t, new.Add(Block, both))
	must(t, old.Add(Block, []Entry{
		{Prefix: netip.MustParsePrefix("2001:db8::/64"), Expires: time.Now().Add(time.Hour)},
		{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Expires: time.Now().Add(-time.Hour)},
	}))
	banned := netip.MustParseAddr("203.0.113.9")
	key := limiterBanKey{Addr: dataAddr(banned), Service: forAll}
	must(t, old.maps.Bans.Put(key, limiterBan{ExpiresNs: monotonicNow() + uint64(time.Hour), Hits: 7, Repeats: 2, Service: forAll}))
	// Banned again behind the copy, which holds the ban before: the hits of both count.
	again := limiterBanKey{Addr: dataAddr(netip.MustParseAddr("203.0.113.10")), Service: forAll}
	must(t, new.maps.Bans.Put(again, limiterBan{ExpiresNs: 1, Hits: 0, Repeats: 1, Service: forAll}))
	must(t, old.maps.Bans.Put(again, limiterBan{ExpiresNs: monotonicNow() + uint64(time.Hour), Hits: 9, Repeats: 2, Service: forAll}))
	source := limiterSourceKey{Addr: dataAddr(netip.MustParseAddr("192.0.2.1"))}
	old.count(t, 10, map[string]uint64{"192.0.2.1/32": 3, "192.0.2.0/24": 4, "2001:db8::/64": 5, "198.51.100.0/24": 6}, source)
	new.count(t, 1, map[string]uint64{"192.0.2.1/32": 1, "192.0.2.0/24": 1}, source)
	for range 2 {
		from, err := openPinned(old.dir)
		must(t, err)
		to, err := openPinned(new.dir)
		must(t, err)
		must(t, tryMoves(from, to))
		must(t, moveCounts(from, to))
		from.close()
		to.close()
	}
	ends, err := new.ends(5)
	must(t, err)
	limits, err := new.readTallies()
	must(t, err)
	far, err := limits.rawLimit(100)
	must(t, err)
	want := uint64(11 * lanes)
	if got := ends.reason(limiterReasonREASON_BLOCKED); got != want || limits.nearLimits[3].Bytes != want || far.Packets != want {
		t.Errorf("counted %d, %d and %d, want %d", got, limits.nearLimits[3].Bytes, far.Packets, want)
	}
	var line limiterSource
	must(t, new.maps.Sources.Lookup(source, &line))
	if line.Refused != 11 {
		t.Errorf("ledger: %+v, want 11 refused", line)
	}
	entries, err := new.Entries(Block)
	must(t, err)
	hits := map[string]uint64{}
	for _, e := range entries {
		hits[e.Prefix.String()] = e.Hits
	}
	if len(hits) != 5 || hits["203.0.113.9/32"] != 7 || hits["203.0.113.10/32"] != 9 || hits["192.0.2.1/32"] != 4 || hits["192.0.2.0/24"] != 5 || hits["2001:db8::/64"] != 5 {
		t.Errorf("hits %v", hits)
	}
	if !(indexHolds(new.tables, banned)) {
		t.Error("the late ban is not in the index")
	}
	// The index and the families let the late entry be found.
	if e, err := new.Covering(Block, netip.MustParseAddr("2001:db8::1")); err != nil || e == nil || new.control.Families&2 == 0 {
		t.Errorf("the late entry: %+v %v, families %b", e, err, new.control.Families)
	}
}

// indexHolds: a program would look at the lists for an IPv4 address.
func indexHolds(tables *sharedTables, a netip.Addr) bool {
	first, _ := span(netip.PrefixFrom(a, 32), indexBits4)
	return tables.ListIndex[first/64]>>(first%64)&1 != 0
}
