// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"
)

// The list index while it is built anew, step by step: what each thread may do next, in every order. Entry 0 is on
// the list from the beginning, each of the others is put there by a program that bans. One packet is judged at
// a time. The command that rebuilds may be killed behind any step; then another begins.
const (
	modelEntries = 3
	modelWriters = modelEntries - 1
)

type (
	// indexModel is one state; it compares by value.
	indexModel struct {
		half    int8
		both    bool
		bits    [2][modelEntries]bool
		there   [modelEntries]bool
		writers [modelWriters]modelRun
		packet  modelRun
		before  [modelEntries]bool // the entries that were there when the packet came
		packets int8               // still to come
		rebuild modelRebuild
		kills   int8
	}
	// modelRun is one run of a program: step 0 has not begun, ended is over.
	modelRun struct {
		step int8
		half int8
		both bool
	}
	modelRebuild struct {
		step, entry int8
		waits       [modelWriters + 1]bool // for these runs
	}
	// modelOmits leaves steps of the rebuild out, to see that the model misses them.
	modelOmits struct{ firstWait, both, wait, scan bool }
)

// writerEnded is the step behind a writer's last.
const writerEnded = 5

// writer: the word, the bit in the half that it names, that in the other, the entry.
func (s indexModel) writer(n int) (indexModel, bool) {
	w, entry := &s.writers[n], n+1
	switch w.step {
	case 0: // it begins
	case 1:
		w.half, w.both = s.half, s.both
	case 2:
		s.bits[w.half][entry] = true
	case 3:
		if w.both {
			s.bits[1-w.half][entry] = true
		}
	case 4:
		s.there[entry] = true
	default:
		return s, false
	}
	w.step++
	return s, true
}

// judge: the word, then the bits. An entry that was there when it began must not be overlooked.
func (s indexModel) judge() (next indexModel, fault string, ok bool) {
	p := &s.packet
	switch p.step {
	case 0:
		if s.packets == 0 {
			return s, "", false
		}
		s.packets--
		s.before = s.there
	case 1:
		p.half = s.half
	case 2:
		for entry, there := range s.before {
			if there && !s.bits[p.half][entry] {
				fault = fmt.Sprintf("entry %d is overlooked", entry)
			}
		}
		*p, s.before = modelRun{}, [modelEntries]bool{}
		return s, fault, true
	}
	p.step++
	return s, "", true
}

// running: a run that waitForPrograms would wait for.
func (s *indexModel) running() (out [modelWriters + 1]bool) {
	for n, w := range s.writers {
		out[n] = w.step > 0 && w.step < writerEnded
	}
	out[modelWriters] = s.packet.step > 0
	return out
}

// waited takes off those runs that have ended, and says whether all have.
func (s *indexModel) waited() bool {
	for n, runs := range s.running() {
		s.rebuild.waits[n] = s.rebuild.waits[n] && runs
	}
	return s.rebuild.waits == [modelWriters + 1]bool{}
}

// step is one of rebuildSteps, or of its loops one entry.
func (s indexModel) step(omit modelOmits) (indexModel, bool) {
	r := &s.rebuild
	next := func(more bool) {
		if r.entry++; more && r.entry < modelEntries {
			return
		}
		r.step, r.entry = r.step+1, 0
	}
	switch r.step {
	case 0, 5: // begin to wait
		r.waits = s.running()
		if r.step == 0 && omit.firstWait || r.step == 5 && omit.wait {
			r.waits = [modelWriters + 1]bool{}
		}
		next(false)
	case 1, 6:
		if !s.waited() {
			return s, false
		}
		next(false)
	case 2:
		s.both = false
		next(false)
	case 3:
		s.bits[1-s.half][r.entry] = false
		next(true)
	case 4:
		s.both = !omit.both
		next(false)
	case 7:
		if s.there[r.entry] && !omit.scan {
			s.bits[1-s.half][r.entry] = true
		}
		next(true)
	case 8:
		s.half = 1 - s.half
		next(false)
	case 9:
		s.both = false
		next(false)
	default:
		return s, false
	}
	return s, true
}

// exploreIndex looks for a state in which a packet overlooks an entry.
func exploreIndex(omit modelOmits) (fault string, states int) {
	first := indexModel{packets: 2, kills: 2}
	first.there[0], first.bits[0][0] = true, true
	seen := map[indexModel]bool{}
	todo := []indexModel{first}
	visit := func(s indexModel) {
		if !seen[s] {
			seen[s] = true
			todo = append(todo, s)
		}
	}
	for len(todo) > 0 && fault == "" {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for n := range s.writers {
			if next, ok := s.writer(n); ok {
				visit(next)
			}
		}
		next, found, ok := s.judge()
		if fault = found; ok {
			visit(next)
		}
		if next, ok := s.step(omit); ok {
			visit(next)
		}
		if s.kills > 0 {
			s.kills--
			s.rebuild = modelRebuild{}
			visit(s)
		}
	}
	return fault, len(seen)
}

// In no order of their steps does a packet overlook an entry while two programs ban, and a rebuild is killed and
// begun again twice.
func TestModelNoRebuildOverlooksAnEntry(t *testing.T) {
	t.Parallel()
	fault, states := exploreIndex(modelOmits{})
	t.Logf("%d states", states)
	if fault != "" {
		t.Error(fault)
	}
}

// The model finds each step that is left out.
func TestModelFindsWhatARebuildLacks(t *testing.T) {
	t.Parallel()
	for name, omit := range map[string]modelOmits{
		"wait before the spare half is cleared": {firstWait: true},
		"bits in both halves":                   {both: true},
		"wait for who writes one half":          {wait: true},
		"scan":                                  {scan: true},
	} {
		fault, _ := exploreIndex(omit)
		if fault == "" {
			t.Errorf("without the %s no fault was found", name)
		}
		t.Logf("without the %s: %s", name, fault)
	}
}
