// SPDX-License-Identifier: Apache-2.0

package trafficgen

import (
	"context"
	"testing"
)

// BenchmarkRun sends b.N frames over a veth into a counting and dropping XDP program, and shows the rate and what
// share of the frames arrived.
func BenchmarkRun(b *testing.B) {
	for _, c := range []struct {
		name string
		mix  Mix
		cpus []int
	}{
		{"one source", mixes["one"], []int{0}},
		{"65536 random", Anywhere(prefix("10.78.0.0/16")), []int{0}},
		{"65536 random, IPv6", Anywhere(prefix("fd80::/112")), []int{0}},
		{"65536 random, two CPUs", Anywhere(prefix("10.78.0.0/16")), []int{0, 1}},
	} {
		b.Run(c.name, func(b *testing.B) {
			l := newLab(b)
			dst := l.ServerIP4
			if c.mix[0].Prefix.Addr().Is6() {
				dst = l.ServerIP6
			}
			opts := l.options(b, dst)
			opts.Mix, opts.CPUs, opts.Packets = c.mix, c.cpus, uint64(b.N)
			b.ResetTimer()
			sent, err := Run(context.Background(), opts)
			b.StopTimer()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "frames/s")
			b.ReportMetric(100*float64(l.total(b))/float64(sent), "arrived%")
		})
	}
}
