// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

const (
	connRounds   = 31
	connsOfRound = 6000
)

// BenchmarkConnections measures connections that are opened and closed as fast as the machine can, in turn with a
// limit of concurrent connections, whose counting sees each of them, and with the same policy without it.
func BenchmarkConnections(b *testing.B) {
	pair := testenv.NewPair(b, testenv.PairOptions{})
	dir := filepath.Join(testenv.BPFFS(b), "synward")
	server := testenv.NewServer(b, pair.Server, netip.AddrPortFrom(pair.ServerIP4, 8080), testenv.ServerOptions{})
	inServer := func(what func() error) {
		if err := pair.Server.Do(what); err != nil {
			b.Fatal(err)
		}
	}
	inServer(func() error {
		_, err := datapath.Attach(datapath.AttachOptions{PinDir: dir, Interface: pair.ServerIf, Mode: datapath.ModeAuto})
		return err
	})
	round := func(limits string) time.Duration {
		text := "version: 1\nservices: [{name: web, listen: [8080/tcp], limits: [{per: source, new: 1M/s}" + limits + "]}]\n"
		p, err := policy.Parse("policy.yaml", []byte(text), nil)
		if err != nil {
			b.Fatal(err)
		}
		inServer(func() error {
			i, err := datapath.OpenForChange(dir)
			if err != nil {
				return err
			}
			defer i.Close()
			return i.Apply(datapath.ApplyOptions{Policy: p, By: "bench"})
		})
		begin := time.Now()
		if made := churn(pair.Client, server.Addr(), connsOfRound); made < connsOfRound*99/100 {
			b.Fatalf("%d of %d connections were made", made, connsOfRound)
		}
		return time.Since(begin)
	}
	ratios := make([]float64, connRounds)
	for n := range ratios {
		without := round("")
		ratios[n] = float64(round(", {per: source, concurrent: 100k}")) / float64(without)
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[connRounds/2], "x-uncounted")
	b.ReportMetric(ratios[connRounds/2-6], "x-low")
	b.ReportMetric(ratios[connRounds/2+6], "x-high")
}
