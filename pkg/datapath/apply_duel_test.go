// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// Two policies that differ in every limit but that of `third`, and in every list but for what both name. Nothing is ever under a limit in
// either, but for what duel.prime and `third` use up: the limits of `one`, `two`, `near` and `trap` admit
// everybody, and no source that a duel sends comes to them. Lists, sets, ports, local addresses or limits
// of one policy beside those of the other lead there, and so to under_limit.
const (
	firstPolicy = `
version: 1
sets: {friends: [198.18.10.0/24, 198.18.50.0/24, "fd78:10::/48"]}
services:
  - {name: both, listen: [1003/tcp], limits: [{per: source, new: 1/d, burst: 2}]}
  - {name: third, listen: [1006/tcp], limits: [{per: source, new: 1/d, burst: 5}]}
  - {name: one, listen: [1001/tcp], allow: [friends], limits: [{per: source, new: 1M/s}]}
  - {name: trap, listen: [1004/tcp], limits: [{per: source, new: 1100k/s}]}
  - {name: near, listen: ["10.77.0.1:1005/tcp", 1008/tcp], allow: [friends], limits: [{per: source, new: 1200k/s}]}
global: {limits: [{per: source, new: 1300k/s}]}
allow: [198.18.1.1, 198.18.2.0/24, "fd78:1::1", "fd78:2::/64", "fd78:3::/40", 198.18.7.7, 198.18.60.1, 198.18.61.0/24]
block: [198.18.3.1, 198.18.4.0/24, "fd78:11::1", "fd78:12::/64", "fd79::/40", 198.18.8.8, 198.18.70.1, "fd71::/32"]
`
	secondPolicy = `
version: 1
sets: {friends: [198.18.20.0/24, 198.18.50.0/24, "fd78:20::/48"]}
services:
  - {name: trap, listen: [1004/tcp], limits: [{per: source, new: 900k/s}]}
  - {name: two, listen: [1002/tcp, 1008/tcp], allow: [friends], limits: [{per: source, new: 800k/s}]}
  - {name: third, listen: [1006/tcp], limits: [{per: source, new: 1/d, burst: 5}]}
  - {name: both, listen: [1003/tcp, "10.77.0.0/16:1005/tcp"], limits: [{per: source, new: 1/d, burst: 1, over: observe}]}
global: {limits: [{per: source, new: 700k/s}]}
allow: [198.18.3.1, 198.18.4.0/24, "fd78:11::1", "fd78:12::/64", "fd79::/40", 198.18.7.9, 198.18.60.1, 198.18.61.0/24]
block: [198.18.1.1, 198.18.2.0/24, "fd78:1::1", "fd78:2::/64", "fd78:3::/40", 198.18.8.9, 198.18.70.1, "fd71::/32"]
`
	// moreOfSecond needs a program that can do more, so that an apply also swaps programs.
	moreOfSecond = `
  - {name: game, listen: [1007/udp], limits: [{per: source, packets: 600k/s}]}
`
)

// withMore adds services to a policy of a duel.
func withMore(text string) string {
	return strings.Replace(text, "services:\n", "services:"+moreOfSecond, 1)
}

// The ends that a duel knows.
const (
	isAllowed   = "allowed pass"
	isBlocked   = "blocked drop"
	isNobodys   = "no_service pass"
	isOverNew   = "over_new drop"
	isOverWatch = "over_new observe"
	isUnder     = "under_limit pass"
)

// shot is one SYN and how it ends under each of the two policies.
type shot struct {
	from string
	port uint16
	ends [2]string
}

func duelShots() []shot {
	shots := []shot{
		{"198.18.10.1", 1001, [2]string{isAllowed, isNobodys}}, // in a set of one, service of one
		{"198.18.20.1", 1002, [2]string{isNobodys, isAllowed}},
		{"fd78:10::1", 1001, [2]string{isAllowed, isNobodys}},
		{"fd78:20::1", 1002, [2]string{isNobodys, isAllowed}},
		{"198.18.7.7", 1001, [2]string{isAllowed, isNobodys}}, // on a list of one, service of one
		{"198.18.7.9", 1002, [2]string{isNobodys, isAllowed}},
		{"198.18.8.8", 1001, [2]string{isBlocked, isNobodys}},
		{"198.18.8.9", 1002, [2]string{isNobodys, isBlocked}},
		{"198.18.30.1", 1003, [2]string{isOverNew, isOverWatch}}, // over a limit that differs
		{"198.18.10.5", 1005, [2]string{isAllowed, isOverWatch}}, // local address of another service
		{"198.18.40.1", 1006, [2]string{isOverNew, isOverNew}},   // over the limit that stays
	}
	// What both name stays named, whatever else changes.
	shots = append(shots,
		shot{"198.18.60.1", 1004, [2]string{isAllowed, isAllowed}}, shot{"198.18.61.9", 1004, [2]string{isAllowed, isAllowed}},
		shot{"198.18.70.1", 1004, [2]string{isBlocked, isBlocked}}, shot{"fd71::1", 1004, [2]string{isBlocked, isBlocked}},
		shot{"198.18.50.1", 1008, [2]string{isAllowed, isAllowed}})
	for _, from := range []string{"198.18.1.1", "198.18.2.3", "fd78:1::1", "fd78:2::5", "fd78:3::7"} {
		shots = append(shots, shot{from, 1004, [2]string{isAllowed, isBlocked}})
	}
	for _, from := range []string{"198.18.3.1", "198.18.4.3", "fd78:11::1", "fd78:12::5", "fd79::7"} {
		shots = append(shots, shot{from, 1004, [2]string{isBlocked, isAllowed}})
	}
	return shots
}

// duel is a bench on which two policies take turns.
type duel struct {
	*bench
	policies [2]*policy.Policy
	shots    []shot
	frames   [][]byte
}

func newDuel(t *testing.T, mode datapath.Mode, texts ...string) *duel {
	t.Helper()
	d := &duel{bench: newStreamBench(t), shots: duelShots()}
	for n, text := range texts {
		d.policies[n] = parsePolicy(t, text)
	}
	d.attach(mode, nil)
	for _, s := range d.shots {
		d.frames = append(d.frames, d.synFrameFrom(s.from, s.port))
	}
	d.prime()
	return d
}

func parsePolicy(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("test", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// prime brings the first policy in force and uses up the bursts that are to be used up: two of `both`, of
// either source that comes to it. That of `third` is for the test to see.
func (d *duel) prime() {
	d.t.Helper()
	d.apply(0)
	before := d.tally()
	var frames [][]byte
	for range 2 {
		frames = append(frames, d.synFrameFrom("198.18.30.1", 1003), d.synFrameFrom("198.18.10.5", 1003))
	}
	d.send(frames)
	if got := d.since(before, 4); got[isUnder] != 4 {
		d.t.Fatalf("the first connections were counted as %v", got)
	}
}

func (d *duel) apply(n int) {
	d.t.Helper()
	d.change(func(i *datapath.Instance) error {
		return i.Apply(datapath.ApplyOptions{Policy: d.policies[n], By: fmt.Sprintf("policy %d", n+1)})
	})
}

// mustBeWhole sends each shot once: all must end as under this policy.
func (d *duel) mustBeWhole(n int) {
	d.t.Helper()
	want := tally{}
	for _, s := range d.shots {
		want[s.ends[n]]++
	}
	before := d.tally()
	d.send(d.frames)
	if got := d.since(before, uint64(len(d.frames))); !maps.Equal(got, want) {
		d.t.Errorf("under policy %d packets ended as %v, want %v", n+1, got, want)
	}
}

// mustBePure wants nothing counted that a mix of the policies would make of a shot, and at least so many of
// every end that the two have.
func (d *duel) mustBePure(got tally, admitted, atLeast uint64) {
	d.t.Helper()
	legal := map[string]bool{}
	for _, s := range d.shots {
		legal[s.ends[0]], legal[s.ends[1]] = true, true
	}
	for end, n := range got {
		if !legal[end] && end != isUnder {
			d.t.Errorf("counted %d as %s, which neither policy does", n, end)
		}
	}
	if got[isUnder] != admitted {
		d.t.Errorf("admitted %d, want %d: more are a mix of two policies, or of a burst that was given twice", got[isUnder], admitted)
	}
	for end := range legal {
		if got[end] < atLeast {
			d.t.Errorf("counted only %d as %s, want %d: %v", got[end], end, atLeast, got)
		}
	}
}
