// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// bench is a store with a state in it, made by hand.
type bench struct {
	*Store
	t      *testing.T
	warned []string
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t}
	b.Store = Open(filepath.Join(t.TempDir(), "state"), func(line string) { b.warned = append(b.warned, line) })
	return b
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func blocked(prefixes ...string) (out []datapath.Entry) {
	for _, p := range prefixes {
		out = append(out, datapath.Entry{Prefix: netip.MustParsePrefix(p), Scope: datapath.ScopeAll, Origin: "operator"})
	}
	return out
}

// save writes a state with these blocks.
func (b *bench) save(change uint64, entries ...datapath.Entry) *head {
	b.t.Helper()
	before := must[*head](b.t)(b.head())
	h := &head{Instance: 7, Change: change, number: 1, Interfaces: []savedInterface{{Name: "eth0", Mode: "native", Instance: 7}}}
	if before != nil {
		h.number = before.number + 1
	}
	var lines []byte
	for _, e := range entries {
		lines = append(appendEntry(lines, datapath.Block, e), '\n')
	}
	h.Lists.File, h.Journal = "lists-"+headName(h.number), "journal-"+headName(h.number)
	b.file(h.Lists.File, lines)
	h.Lists.SHA256 = sumOf(lines)
	b.file(h.Journal, nil)
	if err := b.writeHead(h, before); err != nil {
		b.t.Fatal(err)
	}
	return h
}

func (b *bench) file(name string, content []byte) {
	b.t.Helper()
	err := b.write(name, func(f *os.File) error {
		_, err := f.Write(content)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func sumOf(b []byte) string {
	_, sum, _ := strings.Cut(string(withSum(b)[len(b):]), sumMark)
	return strings.TrimSpace(sum)
}

// blocks is what the newest whole state says.
func (b *bench) blocks() (out []string) {
	b.t.Helper()
	h := must[*head](b.t)(b.wholeHead())
	noFeed := func(datapath.Feed) error { return nil }
	err := b.eachEntry(h, visitor{noFeed, func(_ datapath.List, e datapath.Entry) error {
		out = append(out, e.Prefix.String())
		return nil
	}})
	if err != nil {
		b.t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func (b *bench) want(prefixes ...string) {
	b.t.Helper()
	if got := b.blocks(); !slices.Equal(got, prefixes) {
		b.t.Errorf("saved are %v, want %v", got, prefixes)
	}
}

func TestJournalIsReplayed(t *testing.T) {
	b := newBench(t)
	h := b.save(1, blocked("10.0.0.1/32", "10.0.0.2/32")...)
	ended := blocked("10.0.0.9/32")
	ended[0].Expires = time.Now().Add(-time.Second)
	steps := [][]datapath.ListChange{
		{{List: datapath.Block, Added: blocked("10.0.0.3/32")}, {List: datapath.Block, Removed: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}}},
		{{List: datapath.Block, Added: ended}},
		nil, // begun, and nothing came of it
		{{List: datapath.Block, Removed: []netip.Prefix{netip.MustParsePrefix("10.0.0.3/32")}}, {List: datapath.Block, Added: blocked("10.0.0.1/32")}},
	}
	for n, step := range steps {
		if err := b.appendJournal(h, uint64(n+2), step); err != nil {
			t.Fatal(err)
		}
		if _, ok := b.holds(h, datapath.Change{Instance: 7, Begun: uint64(n + 2)}); !ok {
			t.Errorf("after change %d the state is not taken for whole", n+2)
		}
	}
	b.want("10.0.0.1/32", "10.0.0.2/32")
}

// A kill may leave any part of a change behind: it did not happen then, and the next command sees that.
func TestJournalCutAnywhere(t *testing.T) {
	b := newBench(t)
	h := b.save(1, blocked("10.0.0.1/32")...)
	journal := func() []byte { return must[[]byte](t)(os.ReadFile(b.path(h.Journal))) }
	if err := b.appendJournal(h, 2, []datapath.ListChange{{List: datapath.Block, Added: blocked("10.0.0.2/32")}}); err != nil {
		t.Fatal(err)
	}
	first := len(journal())
	err := b.appendJournal(h, 3, []datapath.ListChange{
		{List: datapath.Block, Added: blocked("10.0.0.3/32", "10.0.0.4/32")},
		{List: datapath.Block, Removed: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	whole := journal()
	for cut := first; cut < len(whole); cut++ {
		b.file(h.Journal, whole[:cut])
		b.want("10.0.0.1/32", "10.0.0.2/32")
		if _, ok := b.holds(h, datapath.Change{Instance: 7, Begun: 3}); ok {
			t.Errorf("cut at byte %d of %d the last change is taken for saved", cut, len(whole))
		}
	}
	b.file(h.Journal, whole)
	b.want("10.0.0.2/32", "10.0.0.3/32", "10.0.0.4/32")
	for at := first; at < len(whole); at++ {
		other := slices.Clone(whole)
		other[at] ^= 1
		b.file(h.Journal, other)
		if got := b.blocks(); slices.Contains(got, "10.0.0.3/32") && slices.Contains(got, "10.0.0.1/32") {
			t.Errorf("with byte %d changed half of a change is there: %v", at, got)
		}
	}
}

func TestNewestWholeStateCounts(t *testing.T) {
	damage := func(name string) func(*bench, *head) {
		return func(b *bench, h *head) {
			path := b.path(map[string]string{"head": headName(h.number), "lists": h.Lists.File}[name])
			content := must[[]byte](b.t)(os.ReadFile(path))
			content[len(content)/2] ^= 1
			if err := os.WriteFile(path, content, 0o600); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	for name, harm := range map[string]func(*bench, *head){
		"head damaged":  damage("head"),
		"lists damaged": damage("lists"),
		"lists gone":    func(b *bench, h *head) { os.Remove(b.path(h.Lists.File)) },
		"head torn":     func(b *bench, h *head) { os.Truncate(b.path(headName(h.number)), 100) },
		"head empty":    func(b *bench, h *head) { os.Truncate(b.path(headName(h.number)), 0) },
		"foreign":       func(b *bench, h *head) { os.WriteFile(b.path(headName(h.number+1)), []byte("{}\n"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.save(1, blocked("10.0.0.1/32")...)
			h := b.save(2, blocked("10.0.0.2/32")...)
			harm(b, h)
			if name == "foreign" {
				b.want("10.0.0.2/32")
			} else {
				b.want("10.0.0.1/32")
			}
			if len(b.warned) != 1 || !strings.Contains(b.warned[0], ".broken") {
				t.Errorf("it was said: %q; want one line that names what was set aside", b.warned)
			}
			// The next is newer than all, and what was set aside stays.
			b.save(3, blocked("10.0.0.3/32")...)
			b.want("10.0.0.3/32")
			if aside := must[[]string](t)(filepath.Glob(b.path("*.broken"))); len(aside) != 1 {
				t.Errorf("set aside are %v, want one file", aside)
			}
		})
	}
}

// A format that this version does not know is no damage: it is left for the version that does.
func TestOtherFormatIsLeftAlone(t *testing.T) {
	b := newBench(t)
	h := b.save(1, blocked("10.0.0.1/32")...)
	content := must[[]byte](t)(os.ReadFile(b.path(headName(h.number))))
	body, _ := cutSum(content)
	other := withSum([]byte(strings.Replace(string(body), `"format": 1`, `"format": 99`, 1)))
	if err := os.WriteFile(b.path(headName(h.number)), other, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := b.head()
	if err == nil || !strings.Contains(err.Error(), "format 99") || !strings.Contains(err.Error(), "use the version") {
		t.Errorf("it was read: %v", err)
	}
	if got := must[[]byte](t)(os.ReadFile(b.path(headName(h.number)))); string(got) != string(other) {
		t.Error("it is not there as it was")
	}
}

// Two states are kept with all that they name, and nothing else of ours.
func TestOldStatesGo(t *testing.T) {
	b := newBench(t)
	b.file("notes.txt", nil)
	for n := range uint64(5) {
		b.save(n, blocked("10.0.0.1/32")...)
	}
	var names []string
	for _, e := range must[[]fs.DirEntry](t)(os.ReadDir(b.dir)) {
		names = append(names, e.Name())
	}
	want := []string{
		"journal-state-4.json", "journal-state-5.json", "lists-state-4.json", "lists-state-5.json", "notes.txt",
		"state-4.json", "state-5.json",
	}
	if !slices.Equal(names, want) {
		t.Errorf("there are %v, want %v", names, want)
	}
}

func TestDismiss(t *testing.T) {
	all := func(datapath.Place) bool { return true }
	eth0 := func(p datapath.Place) bool { return p.Interface == "eth0" }
	b := newBench(t)
	if known, err := b.Dismiss(all, true); err != nil || known != nil {
		t.Errorf("with nothing saved: %v, %v", known, err)
	}
	h := b.save(1, blocked("10.0.0.1/32")...)
	h.Interfaces = append(h.Interfaces, savedInterface{Name: "wg0", Mode: "tc"})
	if err := b.writeHead(h, h); err != nil {
		t.Fatal(err)
	}
	// The last that is attached goes, but wg0 may still come: what belongs to it stays.
	if known, err := b.Dismiss(eth0, true); err != nil || len(known) != 1 {
		t.Errorf("eth0: %v, %v", known, err)
	}
	b.want("10.0.0.1/32")
	if _, err := b.Dismiss(func(p datapath.Place) bool { return p.Interface == "wg0" }, true); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Last(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with all detached there is still something to restore: %v", err)
	}
}

func TestPoliciesAreReadAsTheyWereWritten(t *testing.T) {
	b := newBench(t)
	p := policy.Default(&policy.NewLimit{Rate: policy.Rate{Count: 3, Period: time.Hour}, Burst: 2})
	packed := must[[]byte](t)(pack(p))
	b.file("policy-x", packed)
	got, err := b.readPolicy("policy-x")
	if err != nil || !got.Equal(p) {
		t.Errorf("read %v, %v", got, err)
	}
}

// A name in a state is a name and no way out of its directory.
func TestNamesStayInTheDirectory(t *testing.T) {
	for _, name := range []string{"../../etc/passwd", "/etc/passwd", ".."} {
		b := newBench(t)
		h := b.save(1)
		h.Journal = name
		if err := b.writeHead(h, h); err != nil {
			t.Fatal(err)
		}
		if _, err := b.readHead(h.number); !errors.Is(err, errDamaged) {
			t.Errorf("%q was taken: %v", name, err)
		}
	}
}
