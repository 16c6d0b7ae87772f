// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// forms are lists as they are published, and whom they name.
var forms = map[string]struct{ text, block, allow string }{
	"plain": {"192.0.2.1\n198.51.100.0/24\n2001:db8::/32\n", "192.0.2.1/32 198.51.100.0/24 2001:db8::/32", "same"},
	"FireHOL netset": {`#
# firehol_level1
# Maintainer      : FireHOL
# This File Date  : Thu Jan  1 00:00:00 UTC 1970
#
0.0.0.0/8
1.10.16.0/20
1.19.0.0
`, "0.0.0.0/8 1.10.16.0/20 1.19.0.0/32", "same"},
	"Spamhaus DROP, text": {`; Spamhaus DROP List 2024/01/01 - (c) 2024 The Spamhaus Project SLU
; https://www.spamhaus.org/drop/drop.txt
1.10.16.0/20 ; SBL256894
2a10:5880::/29 ; SBL1
`, "1.10.16.0/20 2a10:5880::/29", "same"},
	"Spamhaus DROP, JSON lines": {`{"cidr":"1.10.16.0/20","sblid":"SBL256894","rir":"apnic"}
{"cidr":"2a10:5880::/29","sblid":"SBL#1;","rir":"ripencc"}
{"type":"metadata","timestamp":1700000000,"size":63,"records":2,"copyright":"(c)"}
`, "1.10.16.0/20 2a10:5880::/29", "same"},
	"address, mask, list, category": {`10.10.10.2,32,bl,spam_sources
10.10.11.0,24,wl,
10.10.12.3,,bl,botnets
10.0.0.12,,,
2001:db8:: , 32 , WL , x
10.3.0.0/16,,bl
::ffff:10.4.0.0,112,bl,
10.5.0.1,
`, "10.10.10.2/32 10.10.12.3/32 10.0.0.12/32 10.3.0.0/16 10.4.0.0/16 10.5.0.1/32", "10.10.11.0/24 10.0.0.12/32 2001:db8::/32 10.5.0.1/32"},
	"CRLF, comments, blanks":    {"\ufeff# x\r\n\r\n  192.0.2.1\t\r\n192.0.2.2# y\r\n;\r\n::ffff:192.0.2.3\r\n::ffff:192.0.2.4/127", "192.0.2.1/32 192.0.2.2/32 192.0.2.3/32 192.0.2.4/31", "same"},
	"twice, and one in another": {"10.0.0.0/8\n10.1.2.3\n10.1.0.0/16\n10.0.0.0/8\n11.0.0.0/8\n10.0.0.0/7\n", "10.0.0.0/7", "same"},
	"everybody":                 {"0.0.0.0/0\n::/0\n192.0.2.1\n::1\n", "0.0.0.0/0 ::/0", "same"},
	"neighbours stay":           {"10.0.0.0/9\n10.128.0.0/9\n", "10.0.0.0/9 10.128.0.0/9", "same"},
	"nobody":                    {"# nobody\n", "", "same"},
	"nothing":                   {"", "", "same"},
}

func names(text string) []string {
	out := strings.Fields(text)
	slices.Sort(out)
	return out
}

func prefixes(c *Contents) (out []string) {
	for _, p := range c.Sorted() {
		out = append(out, p.String())
	}
	slices.Sort(out)
	return out
}

func packed(text string) io.Reader {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return &b
}

func TestForms(t *testing.T) {
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{
				"whole": strings.NewReader(form.text), "gzip": packed(form.text), "byte by byte": iotest.OneByteReader(strings.NewReader(form.text)),
			} {
				for _, allow := range []bool{false, true} {
					if how != "whole" && allow {
						continue // read to its end
					}
					c, err := Read(r, allow)
					if err != nil || c.BadLines > 0 {
						t.Fatalf("%s: %v, %v", how, err, c.Bad)
					}
					c.Merge()
					want := names(form.block)
					if allow && form.allow != "same" {
						want = names(form.allow)
					}
					if got := prefixes(c); !slices.Equal(got, want) {
						t.Errorf("%s: allow %v: got %v, want %v", how, allow, got, want)
					}
					r = strings.NewReader(form.text)
				}
			}
		})
	}
}

func TestOthersAreCounted(t *testing.T) {
	c, err := Read(strings.NewReader("10.0.0.1,,wl,\n10.0.0.2,,bl,\n10.0.0.3\n"), false)
	if err != nil || c.Named != 3 || c.Others != 1 || c.Len() != 2 {
		t.Errorf("%v, %+v", err, c)
	}
}

// Each bad line has its number and says why; the good ones around it count.
func TestBadLines(t *testing.T) {
	long := strings.Repeat("1", maxLine)
	for text, want := range map[string]string{
		"192.0.2.7/24":                  `prefix "192.0.2.7/24": it has host bits set; use 192.0.2.0/24 for the network or 192.0.2.7 for the host`,
		"fe80::1%eth0":                  `prefix "fe80::1%eth0": an address is judged on every interface; leave out %eth0`,
		"example.com":                   `prefix "example.com": write an address or a prefix, as in 192.0.2.1 or 2001:db8::/32 (names are not looked up)`,
		"192.0.2.2 192.0.2.3":           `prefix "192.0.2.2 192.0.2.3": write an address or a prefix, as in 192.0.2.1 or 2001:db8::/32 (names are not looked up)`,
		"192.0.2.0/33":                  `prefix "192.0.2.0/33": write an address or a prefix, as in 192.0.2.0/24 or 2001:db8::/32`,
		"\x1b[31m192.0.2.1":             `prefix "\x1b[31m192.0.2.1": write an address or a prefix, as in 192.0.2.1 or 2001:db8::/32 (names are not looked up)`,
		"192.0.2.1,33,bl,x":             `mask "33": write the length of the prefix, 0 to 32`,
		"192.0.2.1,24,bl,x":             `prefix "192.0.2.1/24": it has host bits set; use 192.0.2.0/24 for the network or 192.0.2.1 for the host`,
		"192.0.2.0/24,24,bl":            `the prefix has a length behind / and another one as its mask: leave one out`,
		"192.0.2.1,32,grey,x":           `list "grey": write wl, bl or nothing, as in IP,mask,wl|bl,category`,
		"192.0.2.1,32,bl,x,y":           `5 fields with commas between them: write IP,mask,wl|bl,category`,
		",32,bl,x":                      `prefix "": write an address or a prefix, as in 192.0.2.1 or 2001:db8::/32 (names are not looked up)`,
		`{"cidr":"192.0.2.1/24"}`:       `prefix "192.0.2.1/24": it has host bits set; use 192.0.2.0/24 for the network or 192.0.2.1 for the host`,
		`{"ip":"192.0.2.1"}`:            `JSON "{\"ip\":\"192.0.2.1\"}": it has no field cidr, as in {"cidr":"192.0.2.0/24"}`,
		`{"cidr":`:                      `JSON "{\"cidr\":": write one object a line, as in {"cidr":"192.0.2.0/24"}`,
		long:                            `it is longer than 4096 bytes`,
		strings.Repeat("x", maxShown+1): fmt.Sprintf("%q... makes no sense: write an address or a prefix, as in 192.0.2.1 or 2001:db8::/32", strings.Repeat("x", maxShown)),
	} {
		c, err := Read(strings.NewReader("192.0.2.1\n\n"+text+"\n#"+long+long+"\n192.0.2.9\n"), false)
		if err != nil || c.BadLines != 1 || c.Len() != 2 {
			t.Errorf("%.60q: %v, %d bad lines, %d prefixes", text, err, c.BadLines, c.Len())
			continue
		}
		if got := c.Bad[0].Error(); got != "line 3: "+want {
			t.Errorf("%.60q:\n got %s\nwant line 3: %s", text, got, want)
		}
	}
}

func TestOnlyTheFirstBadLinesAreKept(t *testing.T) {
	c, err := Read(strings.NewReader(strings.Repeat("x\n", 1000)), false)
	if err != nil || c.BadLines != 1000 || len(c.Bad) != maxBad || c.Bad[maxBad-1].Line != maxBad {
		t.Errorf("%v, %d bad lines, kept %v", err, c.BadLines, c.Bad)
	}
}

// What is cut short or is no text is refused as a whole.
func TestUnreadable(t *testing.T) {
	var whole bytes.Buffer
	_, _ = io.Copy(&whole, packed(strings.Repeat("192.0.2.1\n", 1000)))
	for name, r := range map[string]io.Reader{
		"cut short":    bytes.NewReader(whole.Bytes()[:whole.Len()-4]),
		"broken gzip":  strings.NewReader("\x1f\x8bx"),
		"UTF-16":       strings.NewReader("1\x009\x002\x00"),
		"binary":       strings.NewReader("192.0.2.1\nBZh\x00\n"),
		"a bad reader": io.MultiReader(strings.NewReader("192.0.2.1\n"), iotest.ErrReader(errors.New("no more"))),
	} {
		if c, err := Read(r, false); err == nil {
			t.Errorf("%s: it was read: %+v", name, c)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "0", "spamhaus-drop", strings.Repeat("a", MaxName)} {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "-a", "A", "a_b", "a b", "ä", "a\n", "feed:a", strings.Repeat("a", MaxName+1)} {
		if CheckName(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}
