// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"
)

// Each limit in words, its worst window, and in short.
func TestLimitsInWords(t *testing.T) {
	var got strings.Builder
	for _, text := range []string{
		"{per: source, new: 50/s, burst: 100}",
		"{per: source, new: 1/h, burst: 1}",
		"{per: source, new: 1/h, strict: true}",
		"{per: source, new: 3/min, strict: true}",
		"{per: source, new: 3/100s, count_rejected: true}",
		"{per: source, prefix: {ipv4: 24, ipv6: 48}, new: 500/s}",
		"{per: destination, new: 500/s, over: reset}",
		"{per: source+destination, new: 500/d, over: observe}",
		"{per: source, concurrent: 200, over: reset}",
		"{per: source, concurrent: 1}",
		"{per: service, concurrent: 20k}",
		"{per: service, new: 20k/s, over: challenge, exempt: verified}",
		"{per: service, new: 20k/s, exempt: verified}",
		"{per: source, new: 10/s, over: challenge}",
		"{per: source, packets: 300/s, burst: 600}",
		"{per: source, packets: 1/s, except: [192.0.2.0/24, 192.0.2.7, 198.51.100.1]}",
		"{per: source, bytes_in: 5MiB/s, strict: true}",
		"{per: source, bytes_out: 20MB/60s, ban: {after: 1, within: 60s, for: 10m, growth: 2, max: 24h}}",
		"{per: source, new: 5/s, from: [192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4, 192.0.2.5], " +
			"ban: {after: 5, within: 90s, for: 1h, growth: 1, scope: service, prefix: {ipv4: 24, ipv6: 56}}}",
		"{per: source, new: 5/s, ban: {after: 5, within: 1d, for: 7d, growth: 1.5}}",
	} {
		l := oneLimit(t, text)
		got.WriteString(text + "\n  " + l.Words() + "\n  " + l.WorstWindow() + "\n  " + l.String() + "\n")
	}
	checkGolden(t, "testdata/words.txt", got.String())
}
