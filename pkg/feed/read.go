// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

// maxLine is the longest line in bytes, its end included. Longer comments are skipped like any other.
const maxLine = 4096

// maxShown is how much of a line an error quotes.
const maxShown = 120

// Each reads a list, plain or packed by gzip, and visits each line that names somebody and each that cannot be
// read, with its number, from 1 on. It stops with the first error that visit returns. Another error is why the
// list as a whole cannot be read: then what was visited is not all of it.
func Each(r io.Reader, visit func(number int, line Line, bad error) error) error {
	lines, err := unpack(r)
	if err != nil {
		return err
	}
	for number := 1; ; number++ {
		b, long, err := readLine(lines)
		if err != nil {
			return fmt.Errorf("read line %d: %w", number, err)
		}
		if b == nil {
			return nil
		}
		if number == 1 {
			b = bytes.TrimPrefix(b, []byte("\ufeff"))
		}
		if bytes.IndexByte(b, 0) >= 0 {
			return fmt.Errorf("line %d holds a NUL byte: this is no text; unpack it or save it as UTF-8 (gzip is unpacked here)", number)
		}
		if err := visitLine(number, b, long, visit); err != nil {
			return err
		}
	}
}

func visitLine(number int, b []byte, long bool, visit func(int, Line, error) error) error {
	if long {
		if start := bytes.TrimSpace(b); len(start) > 0 && (start[0] == '#' || start[0] == ';') {
			return nil
		}
		return visit(number, Line{}, fmt.Errorf("it is longer than %d bytes", maxLine))
	}
	line, ok, err := parseLine(b)
	if err != nil && len(b) > maxShown {
		// What is wrong is said of the beginning: an error is one line on a terminal.
		err = fmt.Errorf("%q... makes no sense: write an address or a prefix, as in 192.0.2.1 or 2001:db8::/32", b[:maxShown])
	}
	if !ok && err == nil {
		return nil
	}
	return visit(number, line, err)
}

// unpack looks at the first bytes.
func unpack(r io.Reader) (*bufio.Reader, error) {
	lines := bufio.NewReaderSize(r, 1<<16)
	if magic, err := lines.Peek(2); err != nil || !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return lines, nil
	}
	unpacked, err := gzip.NewReader(lines)
	if err != nil {
		return nil, fmt.Errorf("unpack gzip: %w", err)
	}
	return bufio.NewReaderSize(unpacked, 1<<16), nil
}

// readLine returns the next line, good until the next call, or nil at the end. Of one that is long it is the
// beginning.
func readLine(lines *bufio.Reader) (line []byte, long bool, err error) {
	b, err := lines.ReadSlice('\n')
	long = errors.Is(err, bufio.ErrBufferFull) || len(b) > maxLine
	if long {
		line = bytes.Clone(b[:maxLine])
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
	} else {
		line = b
	}
	if err == io.EOF {
		err = nil
		if len(b) == 0 {
			return nil, false, nil
		}
	}
	return line, long, err
}
