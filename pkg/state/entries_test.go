// SPDX-License-Identifier: Apache-2.0

package state

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/synward/synward/pkg/datapath"
)

func anyPrefix() *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		if rapid.Bool().Draw(t, "ipv4") {
			a := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")))
			return netip.PrefixFrom(a, rapid.IntRange(0, 32).Draw(t, "bits")).Masked()
		}
		b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address")
		b[0] = 0x20 // not one that stands for an IPv4 address
		return netip.PrefixFrom(netip.AddrFrom16([16]byte(b)), rapid.IntRange(8, 128).Draw(t, "bits")).Masked()
	})
}

func anyEntry(t *rapid.T) (datapath.List, datapath.Entry) {
	var ban *datapath.Ban
	if rapid.Bool().Draw(t, "banned") {
		ban = &datapath.Ban{
			Service: rapid.String().Draw(t, "service"), Only: rapid.Bool().Draw(t, "only"), Strikes: uint64(rapid.Uint32().Draw(t, "strikes")),
			Repeats: uint64(rapid.Uint32().Draw(t, "repeats")), Fades: time.Duration(rapid.Int64().Draw(t, "fades")),
		}
	}
	return rapid.SampledFrom([]datapath.List{datapath.Allow, datapath.Block}).Draw(t, "list"), datapath.Entry{
		Ban:     ban,
		Prefix:  anyPrefix().Draw(t, "prefix"),
		Scope:   rapid.SampledFrom([]datapath.Scope{datapath.ScopeAll, datapath.ScopeNew}).Draw(t, "scope"),
		Expires: timeOf(0, rapid.Int64Range(0, 1<<62).Draw(t, "expires")),
		Created: timeOf(rapid.Int64Range(0, 1<<40).Draw(t, "created"), 0),
		Hits:    rapid.Uint64().Draw(t, "hits"),
		Origin:  rapid.SampledFrom([]string{"operator", "auto", "feed:x"}).Draw(t, "origin"),
		By:      rapid.String().Draw(t, "by"), Reason: rapid.String().Draw(t, "reason"),
	}
}

func TestEntryIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, e := anyEntry(t)
		gotList, got, err := parseEntry(string(appendEntry(nil, l, e)))
		if err != nil || gotList != l || !reflect.DeepEqual(got, e) {
			t.Fatalf("%v %+v: read as %v %+v, %v", l, e, gotList, got, err)
		}
	})
}

func TestFeedIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, e := anyEntry(t)
		f := datapath.Feed{
			Name: rapid.StringMatching("[a-z0-9][a-z0-9-]{0,30}").Draw(t, "name"), List: l, Scope: e.Scope, Expires: e.Expires,
			Loaded: e.Created, By: e.By, Entries: int(rapid.Uint32().Draw(t, "entries")),
		}
		got, err := parseFeed(string(appendFeed(nil, f)))
		if err != nil || got != f {
			t.Fatalf("%+v: read as %+v, %v", f, got, err)
		}
	})
}

// What is saved is input: whatever stands there is an entry or an error, and never ends the program.
func FuzzEntry(f *testing.F) {
	f.Add(string(appendEntry(nil, datapath.Block, datapath.Entry{
		Prefix: netip.MustParsePrefix("192.0.2.0/24"), Scope: datapath.ScopeAll, Origin: "operator",
	})))
	f.Add(string(appendEntry(nil, datapath.Block, datapath.Entry{
		Prefix: netip.MustParsePrefix("192.0.2.1/32"), Scope: datapath.ScopeAll, Origin: "auto", Ban: &datapath.Ban{Service: "web", Strikes: 5},
	})))
	f.Fuzz(func(t *testing.T, line string) {
		l, e, err := parseEntry(line)
		if err != nil {
			return
		}
		again, same, err := parseEntry(string(appendEntry(nil, l, e)))
		if err != nil || again != l || same.Prefix != e.Prefix || same.Scope != e.Scope || same.By != e.By {
			t.Errorf("%q: %+v was read again as %+v: %v", line, e, same, err)
		}
	})
}
