// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/internal/trafficgen"
)

// Under a flood of a million spoofed sources the twenty real offenders lead the ledger, and what was
// judged is what was received.
func TestOffendersLeadUnderAFlood(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, rate(5, time.Second, 10))
	index, err := b.ClientIndex()
	if err != nil {
		t.Fatal(err)
	}
	const spoofed, offenders, packets = 1_000_000, 20, 3_000_000
	first := netip.MustParseAddr("198.18.0.1")
	sent, err := trafficgen.Run(context.Background(), trafficgen.Options{
		Namespace: b.Client, Ifindex: index,
		Template: trafficgen.SYN(netip.AddrPortFrom(first, 1), netip.AddrPortFrom(b.ServerIP4, 8080)),
		Mix: trafficgen.Mix{
			{Prefix: netip.MustParsePrefix("20.0.0.0/8"), Count: spoofed, Weight: 60},
			{Prefix: netip.PrefixFrom(first, 24), Count: offenders, Weight: 1},
		},
		Packets: packets, Duration: 30 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	var sources []datapath.Source
	b.change(func(i *datapath.Instance) (err error) {
		sources, err = i.Sources()
		return err
	})
	slices.SortFunc(sources, func(x, y datapath.Source) int { return cmp.Compare(y.Refused, x.Refused) })
	offender := netip.PrefixFrom(first, 24).Masked()
	for rank, s := range sources[:offenders] {
		t.Logf("%2d. %s refused %d, admitted %d, sampled %v", rank+1, s.Prefix, s.Refused, s.Admitted, s.Sampled)
		if !offender.Contains(s.Prefix.Addr()) {
			t.Errorf("rank %d is %s, which is no offender", rank+1, s.Prefix)
		}
	}
	if i := b.one(); i.Judged < sent*99/100 || i.Judged > i.Received {
		t.Errorf("sent %d, received %d, judged %d", sent, i.Received, i.Judged)
	}
}
