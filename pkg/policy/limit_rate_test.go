// SPDX-License-Identifier: Apache-2.0

package policy

import "testing"

// Which parts of a packet's addresses make one count.
func TestCountedPrefixes(t *testing.T) {
	for text, want := range map[string][2]PrefixLengths{
		"{per: source, new: 5/s}":                                         {{32, 64}, {}},
		"{per: source, prefix: {ipv4: 24}, new: 5/s}":                     {{24, 64}, {}},
		"{per: destination, new: 5/s}":                                    {{}, {32, 128}},
		"{per: destination, prefix: {ipv6: 64}, new: 5/s}":                {{}, {32, 64}},
		"{per: source+destination, new: 5/s}":                             {{32, 64}, {32, 128}},
		"{per: source+destination, prefix: {ipv4: 8, ipv6: 8}, new: 5/s}": {{8, 8}, {32, 128}},
		"{per: service, new: 5/s}":                                        {},
	} {
		l := oneLimit(t, text)
		if got := [2]PrefixLengths{l.SourcePrefix(), l.DestinationPrefix()}; got != want {
			t.Errorf("%s counts by %v, want %v", text, got, want)
		}
	}
	if m := oneLimit(t, "{per: source, concurrent: 5}").NewMeter(); m != nil {
		t.Errorf("a limit without a rate has the meter %v", m)
	}
}
