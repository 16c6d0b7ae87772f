// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// A bar is drawn over itself, not too often, without colours, and is gone in the end.
func TestBar(t *testing.T) {
	var shown bytes.Buffer
	clock := noon()
	b := &bar{w: &shown, what: "loading", now: func() time.Time { return clock }}
	b.show(0, 200)
	b.show(10, 200) // at the same moment
	clock = clock.Add(barEvery)
	b.show(100, 200)
	clock = clock.Add(barEvery)
	b.show(500, 200)
	b.end()
	b.end()
	line := func(full int, percent string) string {
		return "\rloading [" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] " + percent + " %"
	}
	want := line(0, "  0") + line(barWidth/2, " 50") + line(barWidth, "100")
	want += "\r" + strings.Repeat(" ", len(line(0, "  0"))-1) + "\r"
	if shown.String() != want {
		t.Errorf("drawn:\n%q, want\n%q", shown.String(), want)
	}
}

// What is no terminal gets no bar.
func TestNoBarWithoutATerminal(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, w := range []io.Writer{f, &bytes.Buffer{}} {
		b := (&env{stderr: w, now: noon}).bar("reading")
		r := b.reader(strings.NewReader("192.0.2.1\n"), 10)
		if _, err := io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		b.show(1, 2)
		b.end()
	}
	if info, err := f.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("%v, %v", info, err)
	}
}
