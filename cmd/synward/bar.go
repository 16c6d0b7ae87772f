// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Each bar is drawn no more often than this.
const barEvery = 100 * time.Millisecond

// barWidth is how many characters the bar itself has.
const barWidth = 30

// bar shows how far a command has come, on a terminal and nowhere else. It writes no colours.
type bar struct {
	w     io.Writer // nil: nobody looks
	what  string
	now   func() time.Time
	drawn time.Time
	shown string
}

// bar begins one, if standard error is a terminal.
func (e *env) bar(what string) *bar {
	b := &bar{what: what, now: e.now}
	if f, ok := e.stderr.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			b.w = f
		}
	}
	return b
}

// show draws it, unless it was drawn just now.
func (b *bar) show(done, total int) {
	if b.w == nil || total <= 0 {
		return
	}
	now := b.now()
	if now.Sub(b.drawn) < barEvery {
		return
	}
	b.drawn = now
	full := min(done, total) * barWidth / total
	b.draw(fmt.Sprintf("%s [%s%s] %3d %%", b.what, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), min(done, total)*100/total))
}

// draw writes over what is shown.
func (b *bar) draw(text string) {
	fmt.Fprintf(b.w, "\r%-*s", len(b.shown), text)
	b.shown = text
}

// end takes it away.
func (b *bar) end() {
	if b.w == nil || b.shown == "" {
		return
	}
	b.draw("")
	fmt.Fprint(b.w, "\r")
	b.shown = ""
}

// reader shows how much of size is read; nothing, where that is not known.
func (b *bar) reader(r io.Reader, size int64) io.Reader {
	if b.w == nil || size <= 0 {
		return r
	}
	return &barReader{r, b, 0, size}
}

type barReader struct {
	io.Reader
	bar        *bar
	read, size int64
}

func (r *barReader) Read(p []byte) (n int, err error) {
	n, err = r.Reader.Read(p)
	r.read += int64(n)
	r.bar.show(int(r.read), int(r.size))
	return n, err
}
