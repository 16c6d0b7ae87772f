// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"maps"
	"path/filepath"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

// Policies that ask ever more of a program.
const (
	plainPolicy = `
version: 1
services: [{name: web, listen: [any/tcp], limits: [{per: source, new: 1/d, burst: 1}]}]
block: [198.18.8.8]
`
	portsPolicy = `
version: 1
services: [{name: web, listen: [1003/tcp], limits: [{per: source, new: 1/d, burst: 1}]}]
block: [198.18.8.8]
`
	richPolicy = `
version: 1
sets: {friends: [198.18.10.0/24]}
services:
  - {name: web, listen: [1003/tcp, "10.77.0.1:1004/tcp"], allow: [friends], limits: [{per: source, new: 1/d, burst: 1, over: reset}]}
  - {name: game, listen: [1007/udp], limits: [{per: source, packets: 600k/s}]}
global: {limits: [{per: source, new: 1M/s}]}
block: [198.18.8.8]
`
)

// What each needs, and what that of a program which was widened for another is called.
const (
	needsPlain = datapath.NeedsNothing
	needsPorts = datapath.NeedsPorts
	needsRich  = datapath.NeedsPorts | datapath.NeedsLocal | datapath.NeedsUDP | datapath.NeedsSets | datapath.NeedsVolume |
		datapath.NeedsMany | datapath.NeedsReset
)

// running is what the hook of the one attachment runs: what is pinned, with the features that are recorded.
func (b *bench) running() (p datapath.RunningProgram) {
	b.t.Helper()
	b.read(func(i *datapath.Instance) error { p = i.RunningProgram(b.t, b.ServerIf); return nil })
	if p.ID != p.Pinned || p.Recorded != p.Features {
		b.t.Errorf("the hook runs %+v, which is not what is pinned and recorded", p)
	}
	next, err := filepath.Glob(filepath.Join(b.pinDir, "progs", "*-next"))
	if err != nil || len(next) > 0 {
		b.t.Errorf("pins of programs that were to be next: %v, %v", next, err)
	}
	return p
}

// mustRun wants a program with just these features.
func (b *bench) mustRun(features uint32) datapath.RunningProgram {
	b.t.Helper()
	p := b.running()
	if p.Features != features {
		b.t.Errorf("the program has features %#x, want %#x", p.Features, features)
	}
	return p
}

// underFire runs a stream while fn does. No packet is lost, or judged as no policy judges it.
func (b *bench) underFire(fn func()) {
	b.t.Helper()
	frames := [][]byte{b.synFrameFrom("198.18.8.8", 1003), b.synFrameFrom("198.18.30.1", 1003)}
	before := b.tally()
	s := b.startStream(frames)
	fn()
	sent := s.stop()
	moved := b.since(before, sent)
	for end := range moved {
		if end != isBlocked && end != isOverNew && end != "over_new reset" {
			b.t.Errorf("counted %d as %s", moved[end], end)
		}
	}
	if moved[isBlocked] < sent/3 {
		b.t.Errorf("of %d packets, half of a blocked source, %v", sent, moved)
	}
	b.mustHaveJudgedAll()
}

// A program does what the policy in force needs and no more. Another takes its place without a gap.
func TestProgramIsSpecialised(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		b := newSpecialBench(t, mode)
		plain := b.mustRun(needsPlain)
		var rich, ports datapath.RunningProgram
		b.underFire(func() {
			b.apply(richPolicy)
			rich = b.mustRun(needsRich)
			b.apply(richPolicy)
			if again := b.mustRun(needsRich); again.ID != rich.ID {
				t.Errorf("the same policy again made another program: %+v after %+v", again, rich)
			}
			b.apply(portsPolicy)
			ports = b.mustRun(needsPorts)
			b.apply(plainPolicy)
			b.mustRun(needsPlain)
		})
		if plain.ID == rich.ID || rich.ID == ports.ID || plain.Bytes >= ports.Bytes || ports.Bytes >= rich.Bytes {
			t.Errorf("programs plain %+v, ports %+v, rich %+v: want each larger than the one before", plain, ports, rich)
		}
		t.Logf("%d, %d and %d bytes", plain.Bytes, ports.Bytes, rich.Bytes)
	})
}

// newSpecialBench has the plain policy in force, and the source that streams over its limit.
func newSpecialBench(t *testing.T, mode datapath.Mode) *bench {
	t.Helper()
	b := newStreamBench(t)
	b.attach(mode, nil)
	b.apply(plainPolicy)
	syn := b.synFrameFrom("198.18.30.1", 1003)
	if got, want := b.judged(syn, syn), (tally{isUnder: 1, isOverNew: 1}); !maps.Equal(got, want) {
		t.Fatalf("a burst of 1 ended as %v", got)
	}
	return b
}

// Until a policy is confirmed, or its time is over, the program does what both need.
func TestProgramOfWhatWaitsDoesBoth(t *testing.T) {
	const long, short = time.Minute, time.Second
	apply := func(b *bench, text string, confirm time.Duration) {
		b.change(func(i *datapath.Instance) error {
			return i.Apply(datapath.ApplyOptions{Policy: parsePolicy(b.t, text), Confirm: confirm})
		})
	}
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		t.Parallel() // it mostly waits
		b := newSpecialBench(t, mode)
		b.underFire(func() {
			apply(b, richPolicy, long)
			b.mustRun(needsRich)
			b.change(func(i *datapath.Instance) error { _, err := i.Rollback(1, "test"); return err })
			b.mustRun(needsPlain)
			b.apply(richPolicy)
			apply(b, portsPolicy, long)
			b.mustRun(needsRich)
			b.change(func(i *datapath.Instance) error { _, err := i.Confirm(); return err })
			b.mustRun(needsPorts)
			apply(b, richPolicy, short)
			b.mustLapse()
			b.mustRun(needsRich) // nobody has been there
			b.change(func(*datapath.Instance) error { return nil })
			b.mustRun(needsPorts)
		})
	})
}

// An interface that is attached while a policy waits gets a program for both, too.
func TestAttachedWhileAPolicyWaits(t *testing.T) {
	b := newSpecialBench(t, datapath.ModeNative)
	b.apply(richPolicy)
	b.change(func(i *datapath.Instance) error {
		return i.Apply(datapath.ApplyOptions{Policy: parsePolicy(t, portsPolicy), Confirm: time.Minute})
	})
	err := b.Server.Do(func() error {
		_, err := datapath.Attach(datapath.AttachOptions{PinDir: b.pinDir, Interface: "lo", Mode: datapath.ModeTC})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b.read(func(i *datapath.Instance) error {
		if p := i.RunningProgram(t, "lo"); p.Features != needsRich {
			t.Errorf("the program of the new interface is %+v, want features %#x", p, needsRich)
		}
		return nil
	})
}

// mustLapse waits until the time of the policy that waits is over.
func (b *bench) mustLapse() {
	b.t.Helper()
	deadline := time.Duration(datapath.ReadControlWord(b.t, b.pinDir).Deadline) * time.Second
	if deadline == 0 {
		b.t.Fatal("no policy waits")
	}
	b.waitUntil(deadline + datapath.Tick())
}

// A command that was killed after it had put another program on the hook, and before that was pinned in the
// place of the old one, or just before it put it there: the interface is armed, and the next change mends it.
func TestHalfSwappedProgramIsMended(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		b := newSpecialBench(t, mode)
		before := b.mustRun(needsPlain)
		b.underFire(func() {
			b.read(func(i *datapath.Instance) error {
				i.SwapHalfway(t, b.ServerIf, needsRich)
				return nil
			})
			b.mustHaveJudgedHalf(before)
			b.change(func(*datapath.Instance) error { return nil })
			if after := b.half(); after.ID == before.ID || after.Pinned != after.ID {
				t.Errorf("after the next change the hook runs %+v, want the new program, pinned", after)
			}
			b.apply(portsPolicy)
			b.mustRun(needsPorts)
		})
		before = b.mustRun(needsPorts)
		b.read(func(i *datapath.Instance) error { i.LeaveNextProgram(t, b.ServerIf); return nil })
		b.mustHaveJudgedAll()
		b.change(func(*datapath.Instance) error { return nil })
		if after := b.mustRun(needsPorts); after.ID != before.ID {
			t.Errorf("a program that was never on the hook is there now: %+v after %+v", after, before)
		}
	})
}

func (b *bench) half() (p datapath.RunningProgram) {
	b.t.Helper()
	b.read(func(i *datapath.Instance) error { p = i.RunningProgram(b.t, b.ServerIf); return nil })
	return p
}

// mustHaveJudgedHalf wants an interface to be armed whose hook runs what is not yet pinned in its place.
func (b *bench) mustHaveJudgedHalf(before datapath.RunningProgram) {
	b.t.Helper()
	if now := b.half(); now.ID == before.ID || now.Pinned != before.ID {
		b.t.Errorf("half-way the hook runs %+v, want another than %+v, and that pinned", now, before)
	}
	b.read(func(i *datapath.Instance) error {
		all, err := i.Interfaces()
		if len(all) != 1 || !all[0].Armed {
			b.t.Errorf("half-way: %+v, want it armed", all)
		}
		return err
	})
}
