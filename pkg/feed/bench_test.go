// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkRead reads a million hosts and a hundred thousand prefixes, drawn at random.
func BenchmarkRead(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	var text bytes.Buffer
	const hosts, wide = 1_000_000, 100_000
	for range hosts {
		a := random.Uint32()
		fmt.Fprintf(&text, "%d.%d.%d.%d\n", a>>24, a>>16&255, a>>8&255, a&255)
	}
	for range wide {
		a := random.Uint32()
		fmt.Fprintf(&text, "%d.%d.%d.0/24\n", a>>24, a>>16&255, a>>8&255)
	}
	for b.Loop() {
		c, err := Read(bytes.NewReader(text.Bytes()), false)
		if err != nil || c.Named != hosts+wide {
			b.Fatal(err, c.Named)
		}
		c.Merge()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(hosts+wide), "ns/line")
}
