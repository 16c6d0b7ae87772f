// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// quicRepeats is how many datagrams of a counted connection may follow.
const quicRepeats = 15

func (l *quicLab) empty() { clear(l.slots) }

// expect takes steps on an empty table and wants these verdicts.
func (l *quicLab) expect(what string, steps []quicTestQuicStep, want ...uint32) {
	l.t.Helper()
	l.empty()
	if got := l.take(steps...); !slices.Equal(got, want) {
		l.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// A connection is counted by its first datagram. What follows is known: a bound of repeats, one
// change of the destination id, a second one with a token.
func TestQuicCountsAConnectionOnce(t *testing.T) {
	l := newQuicLab(t)
	const a, b, c, d = 1, 2, 3, 4
	now := meterEpoch
	see := func(id uint64) quicTestQuicStep { return quicStep(7, id, now) }
	one := func(s ...quicTestQuicStep) []quicTestQuicStep { return s }
	l.expect("two Initials", one(see(a), see(a)), quicNew, quicKnown)
	l.expect("the server's id", one(see(a), see(a), see(b), see(b)), quicNew, quicKnown, quicKnown, quicKnown)
	l.expect("two changes without a token", one(see(a), see(b), see(c), see(c)), quicNew, quicKnown, quicNew, quicKnown)
	l.expect("Retry", one(see(a), withToken(see(b)), withToken(see(c)), withToken(see(c))), quicNew, quicKnown, quicKnown, quicKnown)
	l.expect("three changes", one(see(a), withToken(see(b)), withToken(see(c)), withToken(see(d))), quicNew, quicKnown, quicKnown, quicNew)
	l.expect("back to an old id", one(see(a), see(b), see(a)), quicNew, quicKnown, quicNew)
	l.expect("another source id", one(see(a), quicStep(8, a, now), quicStep(8, b, now), see(b)), quicNew, quicNew, quicKnown, quicKnown)
	l.expect("refused", one(refused(see(a)), refused(see(a)), see(a), refused(see(a))), quicNew, quicNew, quicNew, quicKnown)
	l.expect("refused after changes", one(see(a), see(b), refused(see(c)), refused(see(c)), see(b)), quicNew, quicKnown, quicNew, quicNew, quicKnown)

	repeats := []quicTestQuicStep{see(a)}
	want := []uint32{quicNew}
	for range quicRepeats {
		repeats, want = append(repeats, see(a)), append(want, quicKnown)
	}
	l.expect("one repeat too many", append(repeats, see(a), see(a)), append(want, quicNew, quicKnown)...)
}

// An entry lasts about ten seconds from when it was counted, whatever is sent meanwhile.
func TestQuicEntryEnds(t *testing.T) {
	l := newQuicLab(t)
	at := func(d time.Duration) quicTestQuicStep { return quicStep(7, 1, meterEpoch+uint64(d)) }
	for begin := range 8 {
		offset := time.Duration(begin) * time.Duration(quicUnit) / 8
		l.expect("kept", []quicTestQuicStep{at(offset), at(offset + 9600*time.Millisecond)}, quicNew, quicKnown)
		l.expect("ended", []quicTestQuicStep{at(offset), at(offset + 10800*time.Millisecond)}, quicNew, quicNew)
		l.expect("not prolonged", []quicTestQuicStep{at(offset), at(offset + 9*time.Second), at(offset + 10800*time.Millisecond)},
			quicNew, quicKnown, quicNew)
	}
}

// CPUs may read clocks a tick apart, at the edge of a unit too.
func TestQuicClockThatIsBehind(t *testing.T) {
	l := newQuicLab(t)
	edge := (meterEpoch/quicUnit + 1) * quicUnit
	var steps []quicTestQuicStep
	var want []uint32
	for connection := range uint64(quicWays) {
		steps, want = append(steps, quicStep(1+connection, 1, edge)), append(want, quicNew)
	}
	for connection := range uint64(quicWays) {
		steps, want = append(steps, quicStep(1+connection, 1, edge-1)), append(want, quicKnown)
	}
	l.expect("counted by a CPU that is ahead", steps, want...)
	steps = append(steps[:quicWays-1], quicStep(100, 1, edge-1), quicStep(200, 1, edge-1), quicStep(100, 1, edge), quicStep(200, 1, edge))
	l.expect("the youngest is not taken over for the oldest", steps[:quicWays+1], append(want[:quicWays-1], quicNew, quicNew)...)
	if got := l.take(quicStep(1, 1, edge), quicStep(200, 1, edge)); got[1] != quicKnown {
		t.Error("a slot that is a unit behind was kept, and a younger one taken over")
	}
}

// A full bucket gives its oldest connection up. It counts again; nothing else changes.
func TestQuicFullBucket(t *testing.T) {
	l := newQuicLab(t)
	at := func(connection uint64) quicTestQuicStep {
		return refused(quicStep(connection, 1, meterEpoch+connection*quicUnit/2))
	}
	l.empty()
	for connection := range uint64(quicWays + 1) {
		s := at(1 + connection)
		s.Op = quicSeeNote
		if v := l.take(s); v[0] != quicNew {
			t.Fatalf("connection %d: verdict %d", connection, v[0])
		}
	}
	for connection := range uint64(quicWays + 1) {
		s := at(1 + connection)
		s.NowNs = meterEpoch + 5*quicUnit
		want := quicKnown
		if connection == 0 {
			want = quicNew
		}
		if v := l.take(s); v[0] != want {
			t.Errorf("connection %d of 9 in a bucket: verdict %d, want %d", connection, v[0], want)
		}
	}
}

// An attacker who keeps his ports and his own id and sends ever new destination ids is counted for
// every second one, with forged tokens for every third; who repeats one, for every sixteenth.
func TestQuicAttackerIsCounted(t *testing.T) {
	l := newQuicLab(t)
	const sent = 4800
	for name, c := range map[string]struct {
		step func(n uint64) quicTestQuicStep
		want int
	}{
		"ever new ids":              {func(n uint64) quicTestQuicStep { return quicStep(7, n, meterEpoch) }, sent / 2},
		"ever new ids with tokens":  {func(n uint64) quicTestQuicStep { return withToken(quicStep(7, n, meterEpoch)) }, sent / 3},
		"one id":                    {func(uint64) quicTestQuicStep { return quicStep(7, 1, meterEpoch) }, sent / (quicRepeats + 1)},
		"ever new source ids":       {func(n uint64) quicTestQuicStep { return quicStep(n+1, n, meterEpoch) }, sent},
		"one id, refused each time": {func(uint64) quicTestQuicStep { return refused(quicStep(7, 1, meterEpoch)) }, sent},
	} {
		l.empty()
		var steps []quicTestQuicStep
		for n := range uint64(sent) {
			steps = append(steps, c.step(n))
		}
		if got := countNew(l.take(steps...)); got != c.want {
			t.Errorf("%s: %d of %d counted, want %d", name, got, sent, c.want)
		}
	}
}

// quicOracleSlot is one connection in the table by its specification, on a time that never wraps.
type quicOracleSlot struct {
	connection, dcid uint64
	changes, repeats int
	at               uint64
}

// quicOracle is the one bucket of the table.
type quicOracle [quicWays]quicOracleSlot

func (o *quicOracle) see(s quicTestQuicStep) uint32 {
	now := s.NowNs / quicUnit
	oldest := &o[0]
	for i := range o {
		slot := &o[i]
		if slot.connection == s.Key.Connection {
			if slot.at+quicLife >= now && slot.more(s) {
				return quicKnown
			}
			oldest = slot
			break
		}
		if slot.at < oldest.at {
			oldest = slot
		}
	}
	if s.Op == quicSeeNote {
		*oldest = quicOracleSlot{connection: s.Key.Connection, dcid: s.Key.Dcid, at: now}
	}
	return quicNew
}

// more takes one more datagram into the slot, if it may.
func (slot *quicOracleSlot) more(s quicTestQuicStep) bool {
	most := 1 + int(s.Key.Token)
	other := slot.dcid != s.Key.Dcid
	if slot.repeats == quicRepeats || other && slot.changes >= most {
		return false
	}
	slot.repeats++
	if other {
		slot.changes++
		slot.dcid = s.Key.Dcid
	}
	return true
}

// Whatever is sent, verdict by verdict the kernel does what the oracle does.
func TestQuicDoesWhatTheOracleDoes(t *testing.T) {
	l := newQuicLab(t)
	testSeed(t)
	rapid.Check(t, func(rt *rapid.T) {
		connections := rapid.Uint64Range(1, 14).Draw(rt, "connections")
		ids := rapid.Uint64Range(1, 5).Draw(rt, "ids")
		pace := rapid.Uint64Range(0, quicUnit).Draw(rt, "pace")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "order"), 10))
		l.empty()
		var oracle quicOracle
		now := meterEpoch
		var steps []quicTestQuicStep
		var want []uint32
		for range 1000 {
			now += r.Uint64N(pace + 1)
			s := quicStep(1+r.Uint64N(connections), r.Uint64N(ids), now)
			if r.IntN(3) == 0 {
				s = withToken(s)
			}
			if r.IntN(4) == 0 {
				s = refused(s)
			}
			steps, want = append(steps, s), append(want, oracle.see(s))
		}
		got := l.take(steps...)
		for i := range got {
			if got[i] != want[i] {
				rt.Fatalf("step %d %+v: %d, want %d", i, steps[i], got[i], want[i])
			}
		}
	})
}

// together takes steps on several CPUs at once, step by step, each CPU its own.
func (l *quicLab) together(steps ...[]quicTestQuicStep) [][]quicTestQuicStep {
	l.t.Helper()
	on := cpus(l.t.(*testing.T))[:len(steps)]
	count := len(steps[0])
	for i := range on {
		copy(l.steps[i*count:], steps[i])
	}
	must(l.t, l.objects.Arrived.Set(uint64(0)))
	var all sync.WaitGroup
	errs := make([]error, len(on))
	for i, cpu := range on {
		all.Add(1)
		go func() {
			defer all.Done()
			errs[i] = pinned(cpu, func() error {
				return quicTryRun(l.objects.QuicTakeSteps, quicJob(i*count, count, len(on)))
			})
		}()
	}
	all.Wait()
	must(l.t, errors.Join(errs...))
	var out [][]quicTestQuicStep
	for i := range on {
		out = append(out, slices.Clone(l.steps[i*count:(i+1)*count]))
	}
	return out
}

// quicCrew are steps for many connections in buckets of their own, all of the same kind.
func quicCrew(count int, step func(connection uint64) quicTestQuicStep) []quicTestQuicStep {
	out := make([]quicTestQuicStep, count)
	for i := range out {
		out[i] = step(uint64(i) + 1)
		out[i].Key.Bucket = uint32(i)
	}
	return out
}

// Two CPUs that see datagrams of one new connection at the same instant count it once or twice, never
// less, and leave one entry. Of an entry's credit nothing is ever spent twice.
func TestQuicTwoCPUs(t *testing.T) {
	l := newQuicLab(t)
	if len(cpus(t)) < 2 {
		t.Fatal("needs two CPUs")
	}
	const count = 20_000
	twice := 0
	l.empty()
	same := quicCrew(count, func(c uint64) quicTestQuicStep { return quicStep(c, 1, meterEpoch) })
	both := l.together(same, same)
	for i := range same {
		switch n := countNew([]uint32{both[0][i].Verdict, both[1][i].Verdict}); {
		case n == 0:
			t.Fatalf("connection %d is not counted", i)
		case n == 2:
			twice++
		}
		if n := occupied(l.slots[i*quicWays : (i+1)*quicWays]); n != 1 {
			t.Fatalf("connection %d has %d entries", i, n)
		}
	}
	t.Logf("of %d connections that two CPUs saw at once, %d counted twice", count, twice)

	l.empty()
	l.take(same...)
	for _, s := range l.together(same, same) {
		if n := countNew(verdictsOf(s)); n != 0 {
			t.Errorf("%d repeats on two CPUs counted as new", n)
		}
	}
	l.empty()
	l.take(same...)
	one := quicCrew(count, func(c uint64) quicTestQuicStep { return refused(quicStep(c, 2, meterEpoch)) })
	two := quicCrew(count, func(c uint64) quicTestQuicStep { return refused(quicStep(c, 3, meterEpoch)) })
	both = l.together(one, two)
	for i := range one {
		if n := countNew([]uint32{both[0][i].Verdict, both[1][i].Verdict}); n != 1 {
			t.Fatalf("connection %d: of two changes at once %d count as new, want 1", i, n)
		}
	}
}

// Two CPUs that hammer one connection: not more of it pass uncounted than on one.
func TestQuicTwoCPUsOnOneConnection(t *testing.T) {
	l := newQuicLab(t)
	const count = 16_000
	l.empty()
	hammer := make([]quicTestQuicStep, count)
	for i := range hammer {
		hammer[i] = quicStep(7, uint64(i%3), meterEpoch)
	}
	both := l.together(hammer, hammer)
	counted := countNew(verdictsOf(both[0])) + countNew(verdictsOf(both[1]))
	if least := 2 * count / (quicRepeats + 1); counted < least {
		t.Errorf("%d of %d counted, want at least %d", counted, 2*count, least)
	}
	if n := occupied(l.slots[:quicWays]); n != 1 {
		t.Errorf("%d entries, want 1", n)
	}
}

func verdictsOf(steps []quicTestQuicStep) (out []uint32) {
	for _, s := range steps {
		out = append(out, s.Verdict)
	}
	return out
}

func occupied(slots []uint64) (n int) {
	for _, s := range slots {
		if s != 0 {
			n++
		}
	}
	return n
}

// Ten million connections from random addresses, far more than there are slots: each is counted, but
// for the one in eight million whose tag is another's. A connection that was counted just before is
// still known after as many as a tenth of the slots.
func TestQuicFlood(t *testing.T) {
	l := newQuicLab(t)
	l.empty()
	must(t, l.objects.FloodNowNs.Set(meterEpoch))
	flood := func(n int) {
		for ; n > 0; n -= 1_000_000 {
			l.run(l.objects.QuicFlood, quicJob(0, min(n, 1_000_000), 1))
		}
	}
	before, err := l.objects.QuicRecent.Info()
	must(t, err)
	memory, _ := before.Memlock()
	const known = 4096
	quiet := quicCrew(known, func(c uint64) quicTestQuicStep { return quicStep(c, 1, meterEpoch) })
	l.take(quiet...)
	flood(quicWays * quicBuckets / 10)
	if n := countNew(l.take(quiet...)); n > known/1000 {
		t.Errorf("%d of %d connections were forgotten under a tenth of the slots", n, known)
	}
	const many = 10_000_000
	must(t, l.objects.FloodNew.Set(uint64(0)))
	flood(many)
	var counted uint64
	must(t, l.objects.FloodNew.Get(&counted))
	t.Logf("%d of %d counted, %d of %d slots in use, %d bytes", counted, many, occupied(l.slots), len(l.slots), memory)
	if counted > many || many-counted > 20 {
		t.Errorf("%d of %d counted", counted, many)
	}
	after, err := l.objects.QuicRecent.Info()
	must(t, err)
	if grown, _ := after.Memlock(); grown != memory {
		t.Errorf("the table has grown from %d to %d bytes", memory, grown)
	}
	if len(l.slots) != quicWays*quicBuckets {
		t.Errorf("%d slots, want %d", len(l.slots), quicWays*quicBuckets)
	}
}
