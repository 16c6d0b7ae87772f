// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"maps"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// A policy and a risky one after it: an allow less, a block more, another limit (of one horizon, so that
// levels stay). The last sources of each list are for the operator to name too.
const (
	calmPolicy = `
version: 1
services: [{name: web, listen: [8080-8081/tcp], limits: [{per: source, new: 1/d, burst: 10}]}]
allow: [10.77.1.1, 10.77.1.8]
`
	riskyPolicy = `
version: 1
services: [{name: web, listen: [8080-8081/tcp], limits: [{per: source, new: 1/d, burst: 5}]}]
block: [10.77.1.2, 10.77.1.9]
`
)

// The sources that tell the two apart: allowed before, blocked after, and over the limit after.
const (
	onceAllowed = "10.77.1.1"
	thenBlocked = "10.77.1.2"
	thenOver    = "10.77.1.3"
)

// confirmBench is a bench with the calm policy in force, and with a server for real connections.
type confirmBench struct {
	*bench
	server *testenv.Server
	probe  [][]byte
}

func newConfirmBench(t *testing.T, mode datapath.Mode) *confirmBench {
	t.Helper()
	var addrs []netip.Addr
	for _, a := range []string{onceAllowed, thenBlocked, thenOver} {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	b := &confirmBench{bench: newBench(t, testenv.PairOptions{GRO: true, ClientAddrs: addrs})}
	b.attach(mode, nil)
	b.apply(calmPolicy)
	b.server = b.bench.server(b.ServerIP4, testenv.ServerOptions{})
	for _, a := range addrs {
		b.probe = append(b.probe, b.syn(a.String()))
	}
	for range 5 {
		b.mustConnect(b.server, netip.MustParseAddr(thenOver))
	}
	return b
}

// syn goes to a port where nobody listens, so that a client's kernel says nothing to an answer.
func (b *confirmBench) syn(from string) []byte {
	return b.synFrame(netip.MustParseAddr(from), netip.AddrPortFrom(b.ServerIP4, 8081))
}

func (b *bench) apply(text string) {
	b.t.Helper()
	p := parsePolicy(b.t, text)
	b.change(func(i *datapath.Instance) error { return i.Apply(datapath.ApplyOptions{Policy: p, By: "test"}) })
}

// judged sends frames and tells how they ended.
func (b *bench) judged(frames ...[]byte) tally {
	b.t.Helper()
	before := b.tally()
	b.send(frames)
	return b.since(before, uint64(len(frames)))
}

// calm is how the three sources end where the first policy is in force.
func calm() tally { return tally{isAllowed: 1, isUnder: 2} }

// risky is it under the second, once the source that it no longer allows has used up its burst.
func risky() tally { return tally{isBlocked: 1, isOverNew: 2} }

// mustBeRisky wants all three changes in force.
func (b *confirmBench) mustBeRisky() {
	b.t.Helper()
	if got := b.judged(b.probe...); !maps.Equal(got, risky()) {
		b.t.Errorf("under the policy that waits SYNs ended as %v, want %v", got, risky())
	}
}

// useUp wants the three changes in force at once, on the first packets, and leaves nothing under the limit.
func (b *confirmBench) useUp() {
	b.t.Helper()
	if got, want := b.judged(b.probe...), (tally{isBlocked: 1, isOverNew: 1, isUnder: 1}); !maps.Equal(got, want) {
		b.t.Errorf("right after the apply SYNs ended as %v, want %v", got, want)
	}
	for range 4 {
		b.judged(b.syn(onceAllowed))
	}
	b.mustNotConnect(b.server, netip.MustParseAddr(onceAllowed))
}

// mustTurnBackAt sends SYNs before and after a time of the data path's clock: all that were judged before it
// met the policy that waits, and the first that were sent once it was over the other.
func (b *confirmBench) mustTurnBackAt(deadline time.Duration) {
	b.t.Helper()
	probes := 0
	for {
		sent := datapath.Monotonic()
		got := b.judged(b.probe...)
		counted := datapath.Monotonic()
		probes++
		switch {
		case counted < deadline:
			if !maps.Equal(got, risky()) {
				b.t.Fatalf("%v before the deadline SYNs ended as %v, want %v", deadline-counted, got, risky())
			}
		case sent >= deadline+datapath.Tick():
			if !maps.Equal(got, calm()) {
				b.t.Fatalf("%v after the deadline SYNs ended as %v, want %v", sent-deadline, got, calm())
			}
			b.t.Logf("%d probes, the last %v after the deadline", probes, sent-deadline)
			return
		}
	}
}

const waitsFor = 3 * time.Second

// A policy that waits for its confirmation is left by itself, with no process of synward alive: what it took
// away, what it added and what it changed is all back on time.
func TestConfirmRollsBackAlone(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		t.Parallel() // it mostly waits
		b := newConfirmBench(t, mode)
		before, earliest := datapath.ReadControlWord(t, b.pinDir), datapath.Monotonic()+waitsFor
		b.applyAndDie(applyOrder{Policy: riskyPolicy, By: "alice", Confirm: waitsFor})
		latest := datapath.Monotonic() + waitsFor
		word := datapath.ReadControlWord(t, b.pinDir)
		deadline := time.Duration(word.Deadline) * time.Second
		if deadline < earliest || deadline >= latest+time.Second || word.Fallback != before.Generation {
			t.Errorf("control word %+v after %+v: want a deadline of %v to %v and that as fallback", word, before, earliest, latest)
		}
		b.useUp()
		b.mustBeRisky()
		b.mustRefuseAnother(waitsFor + time.Second)
		b.operate()
		b.mustTurnBackAt(deadline)
		for _, from := range []string{onceAllowed, thenBlocked, thenOver} {
			b.mustConnect(b.server, netip.MustParseAddr(from))
		}
		if after := datapath.ReadControlWord(t, b.pinDir); after != word {
			t.Errorf("control word %+v, want %+v: somebody was there who need not be", after, word)
		}
		b.mustGoOn(word.Generation)
	})
}

// mustRefuseAnother wants a second apply to be refused, with who and how long.
func (b *confirmBench) mustRefuseAnother(most time.Duration) {
	b.t.Helper()
	other := parsePolicy(b.t, firstPolicy)
	b.change(func(i *datapath.Instance) error {
		err := i.Apply(datapath.ApplyOptions{Policy: other, By: "bob"})
		if !errors.Is(err, datapath.ErrRefused) {
			b.t.Fatalf("a second apply: %v, want it refused", err)
		}
		left := regexp.MustCompile(`alice .* another ([0-9]+)s`).FindStringSubmatch(err.Error())
		if left == nil || strings.Contains(err.Error(), "bob") {
			b.t.Fatalf("a second apply: %q, want it to say that alice applied and how long", err)
		}
		if n, err := strconv.Atoi(left[1]); err != nil || n < 1 || time.Duration(n)*time.Second > most {
			b.t.Errorf("a second apply is told to wait %ss, want 1s to %v", left[1], most)
		}
		p, err := i.Policy()
		if err == nil && (p.Pending == nil || p.Pending.By != "alice" || p.Pending.Left <= 0 || p.Pending.Left > most) {
			b.t.Errorf("the policy that waits is shown as %+v", p.Pending)
		}
		return err
	})
	b.mustBeRisky()
}

// operate has the operator allow and block what policies name too, and what they do not.
func (b *confirmBench) operate() {
	b.t.Helper()
	b.allow("10.77.1.6/32", "10.77.1.8/32", "10.77.2.0/24")
	b.block(datapath.Entry{Prefix: netip.MustParsePrefix("10.77.1.7/32")}, datapath.Entry{Prefix: netip.MustParsePrefix("10.77.1.9/32")},
		datapath.Entry{Prefix: netip.MustParsePrefix("10.77.3.0/24")})
	b.mustBeOperated()
	b.mustBeRisky()
}

func (b *confirmBench) mustBeOperated() {
	b.t.Helper()
	var frames [][]byte
	for _, from := range []string{"10.77.1.6", "10.77.1.8", "10.77.2.3", "10.77.1.7", "10.77.1.9", "10.77.3.3"} {
		frames = append(frames, b.syn(from))
	}
	if got, want := b.judged(frames...), (tally{isAllowed: 3, isBlocked: 3}); !maps.Equal(got, want) {
		b.t.Errorf("what the operator allowed and blocked ended as %v, want %v", got, want)
	}
}

// mustGoOn wants the instance to be as if nothing had been: it takes the next policy under the next number,
// what the operator did holds under either, and nothing is left of what waited.
func (b *confirmBench) mustGoOn(waited uint16) {
	b.t.Helper()
	b.mustBeOperated()
	var found datapath.Policy
	b.change(func(i *datapath.Instance) (err error) { found, err = i.Policy(); return err })
	if !found.Policy.Equal(parsePolicy(b.t, calmPolicy)) || found.Pending != nil {
		b.t.Errorf("in force is %+v, want the policy before", found)
	}
	b.apply(riskyPolicy)
	b.mustBeRisky()
	b.mustBeOperated()
	b.change(func(i *datapath.Instance) error {
		p, err := i.Policy()
		if p.Generation <= waited {
			b.t.Errorf("the next policy has generation %d, and the one that waited had %d", p.Generation, waited)
		}
		return err
	})
	b.mustLeaveNothing()
}

// changeMind has a policy wait, and does this to it.
func (b *confirmBench) changeMind(how func(i *datapath.Instance) error) {
	b.t.Helper()
	b.applyAndDie(applyOrder{Policy: riskyPolicy, By: "alice", Confirm: 2 * time.Second})
	b.useUp()
	b.change(how)
}

// A policy that is confirmed in time stays.
func TestConfirmInTimeStays(t *testing.T) {
	b := newConfirmBench(t, datapath.ModeNative)
	b.changeMind(func(i *datapath.Instance) error {
		found, err := i.Confirm()
		if !found {
			t.Error("confirm found nothing that waits")
		}
		again, againErr := i.Confirm()
		if again {
			t.Error("confirm found a policy that was confirmed before")
		}
		return errors.Join(err, againErr)
	})
	b.waitUntil(datapath.Monotonic() + 3*time.Second + datapath.Tick())
	b.mustBeRisky()
	b.change(func(i *datapath.Instance) error {
		p, err := i.Policy()
		if p.Pending != nil || !p.Policy.Equal(parsePolicy(t, riskyPolicy)) {
			t.Errorf("in force is %+v, want the confirmed policy", p)
		}
		return err
	})
}

// One that is taken back is gone at once, and a confirmation that comes too late finds nothing.
func TestRollbackOfWhatWaits(t *testing.T) {
	b := newConfirmBench(t, datapath.ModeNative)
	b.changeMind(func(i *datapath.Instance) error {
		p, err := i.Rollback(1, "alice")
		if err == nil && !p.Equal(parsePolicy(t, calmPolicy)) {
			t.Errorf("rolled back to %s", p.YAML())
		}
		return err
	})
	if got := b.judged(b.probe...); !maps.Equal(got, calm()) {
		t.Errorf("after the rollback SYNs ended as %v, want %v", got, calm())
	}
	b.change(func(i *datapath.Instance) error {
		found, err := i.Confirm()
		if found {
			t.Error("confirm found a policy that was taken back")
		}
		return err
	})
	if got := b.judged(b.probe...); !maps.Equal(got, calm()) {
		t.Errorf("after the late confirmation SYNs ended as %v, want %v", got, calm())
	}
}
