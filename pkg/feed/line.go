// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Mark is what a line says of the list that it is for.
type Mark int

// The marks. Only lines of the form IP,mask,wl|bl,category have one.
const (
	Unmarked Mark = iota
	ForAllow
	ForBlock
)

// Line is one line that names somebody.
type Line struct {
	Prefix netip.Prefix
	Mark   Mark
}

// parseLine reads one line without its end; ok is false where it names nobody. What a line is written in shows
// by itself:
//
//	192.0.2.0/24 ; SBL1                      an address or a prefix; # and ; begin a comment
//	192.0.2.0,24,bl,spam                     address, length of the prefix, wl or bl, category; all but the first may be empty
//	{"cidr":"192.0.2.0/24","sblid":"SBL1"}   JSON; an object with a type, which is about the list, names nobody
func parseLine(b []byte) (l Line, ok bool, err error) {
	b = bytes.TrimSpace(b)
	if len(b) > 0 && b[0] == '{' {
		return parseObject(b)
	}
	if comment := bytes.IndexAny(b, "#;"); comment >= 0 {
		b = bytes.TrimSpace(b[:comment])
	}
	if len(b) == 0 {
		return l, false, nil
	}
	if bytes.IndexByte(b, ',') >= 0 {
		l, err = parseFields(strings.Split(string(b), ","))
	} else {
		l.Prefix, err = ParsePrefix(string(b))
	}
	return l, err == nil, err
}

func parseObject(b []byte) (l Line, ok bool, err error) {
	var o struct {
		CIDR *string `json:"cidr"`
		Type string  `json:"type"`
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return l, false, fmt.Errorf("JSON %q: write one object a line, as in {\"cidr\":\"192.0.2.0/24\"}", b)
	}
	if o.CIDR == nil {
		if o.Type != "" {
			return l, false, nil
		}
		return l, false, fmt.Errorf("JSON %q: it has no field cidr, as in {\"cidr\":\"192.0.2.0/24\"}", b)
	}
	l.Prefix, err = ParsePrefix(*o.CIDR)
	return l, err == nil, err
}

// parseFields reads a line whose fields have commas between them.
func parseFields(fields []string) (l Line, err error) {
	const most = 4
	if len(fields) > most {
		return l, fmt.Errorf("%d fields with commas between them: write IP,mask,wl|bl,category", len(fields))
	}
	fields = append(fields, make([]string, most-len(fields))...)
	for i, f := range fields {
		fields[i] = strings.TrimSpace(f)
	}
	switch strings.ToLower(fields[2]) {
	case "wl":
		l.Mark = ForAllow
	case "bl":
		l.Mark = ForBlock
	case "":
	default:
		return l, fmt.Errorf("list %q: write wl, bl or nothing, as in IP,mask,wl|bl,category", fields[2])
	}
	if l.Prefix, err = ParsePrefix(fields[0]); err != nil || fields[1] == "" {
		return l, err
	}
	l.Prefix, err = withLength(fields[0], fields[1])
	return l, err
}

// withLength is the prefix of an address that ParsePrefix has read.
func withLength(addr, length string) (netip.Prefix, error) {
	if strings.Contains(addr, "/") {
		return netip.Prefix{}, errors.New("the prefix has a length behind / and another one as its mask: leave one out")
	}
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.Prefix{}, err
	}
	n, err := strconv.ParseUint(length, 10, 8)
	if err != nil || int(n) > a.BitLen() {
		return netip.Prefix{}, fmt.Errorf("mask %q: write the length of the prefix, 0 to %d", length, a.BitLen())
	}
	return whole(addr+"/"+length, Unmap(netip.PrefixFrom(a, int(n))))
}
