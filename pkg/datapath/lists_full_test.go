// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// fewEntries is the size of the lists in these tests.
const fewEntries = 8

// smallLists is an instance that is pinned nowhere, whose allow list holds only a few entries.
func smallLists(t *testing.T) *Instance {
	t.Helper()
	m, err := createMaps()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := loadLimiter()
	if err != nil {
		t.Fatal(err)
	}
	for name, field := range map[string]**ebpf.Map{limiterMapAllowHosts: &m.AllowHosts, limiterMapAllowPrefixes: &m.AllowPrefixes} {
		small := spec.Maps[name].Copy()
		small.MaxEntries = fewEntries
		(*field).Close()
		if *field, err = ebpf.NewMap(small); err != nil {
			t.Fatal(err)
		}
	}
	i, err := newInstance("", nil, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.release)
	if err := i.begin(); err != nil {
		t.Fatal(err)
	}
	return i
}

// filling makes n entries of one kind: hosts, or prefixes that live in the trie.
func filling(n, bits int, expires time.Time) (entries []Entry) {
	for i := range n {
		p := netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/%d", i, bits))
		entries = append(entries, Entry{Prefix: p, Expires: expires})
	}
	return entries
}

func mustHold(t *testing.T, i *Instance, want int) {
	t.Helper()
	got, err := i.Entries(Allow)
	if err != nil || len(got) != want {
		t.Errorf("the list holds %d entries, want %d (%v)", len(got), want, err)
	}
}

// What does not fit is refused as a whole, and what was there stays.
func TestFullListRefusesAllOrNothing(t *testing.T) {
	for _, bits := range []int{32, 16} {
		t.Run(fmt.Sprint("/", bits), func(t *testing.T) {
			i := smallLists(t)
			there := filling(fewEntries-2, bits, time.Time{})
			if err := i.Add(Allow, there); err != nil {
				t.Fatal(err)
			}
			if err := i.Add(Allow, filling(fewEntries+1, bits, time.Time{})); !errors.Is(err, ErrFull) {
				t.Errorf("one entry too many: %v", err)
			}
			mustHold(t, i, len(there))
			if err := i.Add(Allow, filling(fewEntries, bits, time.Time{})); err != nil {
				t.Errorf("as many as fit: %v", err)
			}
			mustHold(t, i, fewEntries)
		})
	}
}

// Entries that have ended make room in a full list, and take their notes with them.
func TestEndedEntriesMakeRoom(t *testing.T) {
	for _, bits := range []int{32, 16} {
		t.Run(fmt.Sprint("/", bits), func(t *testing.T) {
			i := smallLists(t)
			if err := i.Add(Allow, filling(fewEntries, bits, time.Now().Add(-time.Second))); err != nil {
				t.Fatal(err)
			}
			fresh := Entry{Prefix: netip.PrefixFrom(netip.MustParseAddr("203.0.0.0"), bits)}
			if err := i.Add(Allow, []Entry{fresh}); err != nil {
				t.Fatalf("an entry beside ended ones: %v", err)
			}
			mustHold(t, i, 1)
			notes := 0
			var key limiterListNoteKey
			var note limiterListNote
			for iter := i.maps.ListNotes.Iterate(); iter.Next(&key, &note); {
				notes++
			}
			if notes != 1 {
				t.Errorf("%d notes are left, want 1", notes)
			}
		})
	}
}
