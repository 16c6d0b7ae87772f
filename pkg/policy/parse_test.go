// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The model of the example of design section 7.
func TestExampleModel(t *testing.T) {
	p := examplePolicy(t)
	web := p.Services[0]
	if got := fmt.Sprint(web.Listen); got != "[80/tcp 443/tcp 203.0.113.10:8443/tcp [2001:db8::10]:8443/tcp 443/quic]" {
		t.Errorf("web listens on %s", got)
	}
	source := PrefixLengths{32, 64}
	want := []Limit{
		{Kind: KindNew, Per: PerSource, Prefix: source, Rate: Rate{50, time.Second}, Burst: 100, Over: OverDrop},
		{Kind: KindNew, Per: PerSource, Prefix: PrefixLengths{24, 48}, Rate: Rate{500, time.Second}, Burst: 500, Over: OverDrop},
		{Kind: KindConcurrent, Per: PerSource, Prefix: source, Concurrent: 200, Over: OverReset},
		{Kind: KindNew, Per: PerService, Rate: Rate{20_000, time.Second}, Burst: 20_000, Over: OverChallenge, Exempt: ExemptVerified},
		{Kind: KindBytesOut, Per: PerSource, Prefix: source, Rate: Rate{20_000_000, time.Minute}, Burst: 20_000_000, Over: OverDrop,
			Ban: &Ban{After: 1, Within: time.Minute, For: 10 * time.Minute, Growth: 2, Max: Day, Scope: BanGlobal, Prefix: source}},
	}
	for i, l := range web.Limits {
		if !reflect.DeepEqual(l, want[i]) {
			t.Errorf("limit %d is\n%+v\nwant\n%+v", i+1, l, want[i])
		}
	}
	if got := fmt.Sprint(p.Block, p.Allow, p.Sets); got !=
		"{[] [203.0.113.0/24 2001:db8:bad::/48]} {[office] []} [{office [192.0.2.0/24 2001:db8:1::/48]} {relays [198.51.100.7/32 198.51.100.8/32]}]" {
		t.Errorf("the lists are %s", got)
	}
}

// A list is read once, so that two places that name it see one state of it; why it cannot be read stays in
// the error.
func TestParseReadsListsOnce(t *testing.T) {
	calls := map[string]int{}
	read := func(path string) ([]byte, error) {
		calls[path]++
		return readTestFile(path)
	}
	text := "version: 1\nallow: [{file: /etc/synward/relays.txt}]\nblock: [{file: /etc/synward/relays.txt}, {file: /x}]\n"
	_, err := Parse("p.yaml", []byte(text), read)
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrInvalid) {
		t.Errorf("the error is %v", err)
	}
	if calls["/etc/synward/relays.txt"] != 1 || calls["/x"] != 1 {
		t.Errorf("calls: %v", calls)
	}
	_, err = Parse("p.yaml", []byte(text), nil)
	want := `p.yaml:2:16: invalid file "/etc/synward/relays.txt": no files are read here; write the prefixes in place`
	var e *Error
	if !errors.As(err, &e) || e.Short() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestParseList(t *testing.T) {
	text := "\ufeff# comment\r\n192.0.2.1\r\n\r\n  198.51.100.0/24 ; SBL1\n2001:db8::/32# x\n::ffff:192.0.2.9\n;\n0.0.0.0/0"
	got, err := ParseList("list", []byte(text))
	if want := "[192.0.2.1/32 198.51.100.0/24 2001:db8::/32 192.0.2.9/32 0.0.0.0/0]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v, want %s", got, err, want)
	}
	_, err = ParseList("list", []byte("192.0.2.1\n192.0.2.2 192.0.2.3\n"))
	checkInvalid(t, "ParseList", "two", err,
		`list:2: invalid prefix "192.0.2.2 192.0.2.3": write an address or a prefix, as in 192.0.2.1 or 2001:db8::/32 (names are not looked up)`)
}

// What is written to make a parser nest, grow or look back is refused or read in time that grows with its
// length.
func TestParseIsNotBlownUp(t *testing.T) {
	const n = 200_000
	for name, text := range map[string]string{
		"brackets":       "version: 1\nallow: " + strings.Repeat("[", n),
		"braces":         strings.Repeat("{a: ", n),
		"dashes":         strings.Repeat("- ", n),
		"question marks": strings.Repeat("? ", n),
		"keys":           strings.Repeat("a: 1\n", n),
		"other keys":     "sets:\n" + strings.Repeat("  a: 1\n", n),
		"keys in flow":   "{" + strings.Repeat("\na: 1,", n) + "}",
		"wide keys":      "{" + strings.Repeat("a: 1, ", n) + "}",
		"pairs":          "a: [" + strings.Repeat("\nb: 1,", n) + "]",
		"colons":         strings.Repeat("a:", n),
		"colon lines":    strings.Repeat(":\n", n),
		"anchors":        strings.Repeat("&a ", n),
		"tags":           strings.Repeat("!a ", n),
		"quotes":         strings.Repeat(`"`, n),
		"open quote":     `"` + strings.Repeat("a\n", n),
		"folded":         "a: >\n" + strings.Repeat(" a\n\n", n),
		"documents":      strings.Repeat("---\n", n),
		"ends":           strings.Repeat("...\n", n),
		"comments":       strings.Repeat("#\n", n),
		"empty lines":    strings.Repeat("\n", n),
		"spaces":         strings.Repeat(" ", n),
		"staircase":      staircase(600),
		"plain lines":    "a: " + strings.Repeat("b\n ", n),
		"commas":         "a: [" + strings.Repeat(",", n) + "]",
		"too long":       strings.Repeat("#", maxText+1),
	} {
		start := time.Now()
		_, err := Parse("p.yaml", []byte(text), nil)
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s took %v", name, took)
		} else if testing.Verbose() {
			t.Logf("%s: %v, %d bytes", name, took, len(text))
		}
		if err == nil {
			t.Errorf("%s is accepted", name)
			continue
		}
		checkPlace(t, []byte(text), err)
		if len(err.Error()) > 2000 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}

func staircase(steps int) string {
	var text strings.Builder
	for i := range steps {
		text.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return text.String()
}

// A list of many prefixes in place is read, and found in.
func TestManyPrefixes(t *testing.T) {
	var text strings.Builder
	text.WriteString("version: 1\nblock:\n")
	for i := range 100_000 {
		fmt.Fprintf(&text, "  - 10.%d.%d.%d\n", i>>16, i>>8&0xff, i&0xff)
	}
	p := mustParse(t, text.String())
	if len(p.Block.Prefixes) != 100_000 {
		t.Fatalf("%d prefixes", len(p.Block.Prefixes))
	}
	for addr, want := range map[string]bool{"10.0.0.0": true, "10.1.134.159": true, "10.1.134.160": false, "9.255.255.255": false} {
		if _, got := p.Covers(p.Block, netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is blocked: %v", addr, got)
		}
	}
}
