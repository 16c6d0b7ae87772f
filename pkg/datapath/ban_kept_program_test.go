// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// What is kept of bans comes back, also of those that have ended and count for the next.
func TestBansAreKept(t *testing.T) {
	limit := banning(1, policy.Ban{After: 1, For: time.Minute, Growth: 3})
	c := newChallengeProgram(t, limit)
	c.knock()
	o := c.offend(hookXDP, syn6(), 1)
	o.strike("the first")
	c.pretend(time.Millisecond)
	keep := func(repeats uint64) (kept []Entry) {
		t.Helper()
		must(t, c.KeptEntries(Block, func(e Entry) error {
			kept = append(kept, e)
			return nil
		}))
		if len(kept) != 1 || kept[0].Ban == nil || kept[0].Ban.Repeats != repeats || kept[0].Ban.Service != "web" {
			t.Fatalf("kept %+v", kept)
		}
		return kept
	}
	ended := keep(1)
	c.clearBans()
	must(t, c.Load(Block, ended))
	c.ends(hookXDP, o.next(), isChallenged, "the ban has ended")
	o.strike("the second")
	c.wantBan(2, 3*time.Minute)
	kept := keep(2)
	c.clearBans()
	c.ends(hookXDP, o.next(), isChallenged, "all are gone")
	must(t, c.Load(Block, kept))
	c.ends(hookXDP, o.next(), isBlocked, "it is back")
	// Made before a boot, and ended so long before that one of two has faded.
	kept[0].Created = wallTime(0).Add(-time.Hour)
	c.clearBans()
	must(t, c.Load(Block, kept))
	if back := keep(2); back[0].Created.Sub(kept[0].Created).Abs() > time.Second {
		t.Errorf("made at %s, and back as of %s", kept[0].Created, back[0].Created)
	}
	for fades, repeats := range []uint64{2, 1} {
		old := kept[0]
		ban := *old.Ban
		old.Ban = &ban
		old.Ban.Fades = 1000 * time.Hour // more than this machine is up
		old.Expires = wallTime(0).Add(-old.Ban.Fades*time.Duration(fades) - time.Hour)
		c.clearBans()
		must(t, c.Load(Block, []Entry{old}))
		keep(repeats)
	}
	kept[0].Ban.Only, kept[0].Ban.Service = true, "none-of-this-name"
	c.clearBans()
	must(t, c.Load(Block, kept))
	c.ends(hookXDP, o.next(), isChallenged, "of a service that is gone")
	if left, err := c.placeBans(); err != nil || left != 1 {
		t.Errorf("%d bans without their service, %v", left, err)
	}
	// A policy that comes behind the bans brings their services.
	must(t, c.Load(Block, kept))
	c.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("none-of-this-name", policy.TCP, server4.Port(), server4.Port(), limit)}
	})
	if left, err := c.placeBans(); err != nil || left != 0 {
		t.Errorf("%d bans without their service, %v", left, err)
	}
	c.ends(hookXDP, o.next(), isBlocked, "its service has come")
}

// A ban from one service is there again when the service is, and is nobody else's; one from all names no other.
func TestBansOfAServiceThatGoes(t *testing.T) {
	only, all := banning(1, policy.Ban{After: 1, For: time.Hour, Scope: policy.BanService}), banning(1, policy.Ban{After: 1, For: time.Hour})
	c := newChallengeProgram(t, only)
	web := func(name string, limits ...policy.Limit) {
		c.rules(nil, func(p *policy.Policy) {
			p.Services = []policy.Service{listening(name, policy.TCP, server4.Port(), server4.Port(), limits...)}
		})
	}
	c.knock()
	o := c.offend(hookXDP, syn4(), 1)
	o.strike("from web alone")
	web("another", only)
	c.ends(hookXDP, o.next(), isNew, "another service")
	web("web", only)
	c.ends(hookXDP, o.next(), isBlocked, "web is back")
	web("another", only)
	web("third", only)
	web("fourth", only)
	c.ends(hookXDP, o.next(), isNew, "with the id that web had, or without")
	for n := range 3 { // an id is free from the next but one policy on
		web(fmt.Sprintf("fill-%d", n), all)
	}
	must(t, c.Forget(o.syn.Src))
	o = c.offend(hookXDP, syn4(), 1)
	o.port = 30_000
	o.strike("from all")
	for n := range 3 {
		web(fmt.Sprintf("next-%d", n), all)
	}
	entries, err := c.Entries(Block)
	must(t, err)
	if len(entries) != 1 || entries[0].Reason != "1 strike" && entries[0].Reason != "1 strike at fill-2" {
		t.Errorf("entries %+v", entries)
	}
	c.ends(hookXDP, o.next(), isBlocked, "banned from all, whatever they are called")
}
