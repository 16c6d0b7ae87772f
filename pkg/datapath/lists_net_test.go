// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/internal/trafficgen"
)

// A blocked source's packets of any protocol are dropped, and those of the one beside it are not.
func TestBlockDropsEveryProtocol(t *testing.T) {
	eachModeAndFamily(t, func(b *bench, mode datapath.Mode, f family) {
		b.attach(mode, nil)
		b.block(datapath.Entry{Prefix: netip.PrefixFrom(f.client, f.client.BitLen())})
		index, err := b.ClientIndex()
		if err != nil {
			b.t.Fatal(err)
		}
		src, dst := netip.AddrPortFrom(f.client, 1234), netip.AddrPortFrom(f.server, 8080)
		frames := [][]byte{
			trafficgen.SYN(src, dst).Bytes(), trafficgen.Segment(src, dst, trafficgen.ACK).Bytes(),
			trafficgen.Datagram(src, dst, []byte("x")).Bytes(), trafficgen.Echo(f.client, f.server).Bytes(),
			trafficgen.SYN(src, dst).With(trafficgen.Fragmented(64, true)).Bytes(),
		}
		if err := trafficgen.Send(b.Client, index, frames...); err != nil {
			b.t.Fatal(err)
		}
		testenv.WaitFor(b.t, 5*time.Second, "every packet to be counted as blocked", func() bool {
			return b.packets("blocked") == uint64(len(frames))
		})
		server := b.server(f.server, testenv.ServerOptions{})
		b.mustNotConnect(server, f.client)
		b.mustConnect(server, f.beside)
	})
}

func TestAllowWinsOverBlock(t *testing.T) {
	eachModeAndFamily(t, func(b *bench, mode datapath.Mode, f family) {
		b.attach(mode, rate(1, 24*time.Hour, 1))
		wide := netip.PrefixFrom(f.client, 8).Masked()
		b.block(datapath.Entry{Prefix: wide})
		b.allow(netip.PrefixFrom(f.client, f.client.BitLen()-1).Masked().String())
		server := b.server(f.server, testenv.ServerOptions{})
		for range 5 { // nor does it count against the limit
			b.mustConnect(server, f.client)
		}
		b.change(func(i *datapath.Instance) error {
			_, err := i.Remove(datapath.Allow, []netip.Prefix{netip.PrefixFrom(f.client, f.client.BitLen()-1).Masked()})
			return err
		})
		b.mustNotConnect(server, f.client)
		b.change(func(i *datapath.Instance) error {
			_, err := i.Remove(datapath.Block, []netip.Prefix{wide})
			return err
		})
		b.mustConnect(server, f.client)
		b.mustNotConnect(server, f.client)
	})
}

// A block ends by itself, with no command running, and a wider one that was hidden by it does not.
func TestBlockEndsOnTime(t *testing.T) {
	eachModeAndFamily(t, func(b *bench, mode datapath.Mode, f family) {
		b.attach(mode, nil)
		server := b.server(f.server, testenv.ServerOptions{})
		ends := time.Now().Add(2 * time.Second)
		b.block(datapath.Entry{Prefix: netip.PrefixFrom(f.client, f.client.BitLen()), Expires: ends})
		b.mustNotConnect(server, f.client)
		testenv.WaitFor(b.t, 10*time.Second, "the block to end", func() bool { return b.connect(server, f.client) == nil })
		if early := time.Until(ends); early > 0 {
			b.t.Errorf("the block ended %v too early", early)
		}
		if late := time.Since(ends); late > 5*time.Second {
			b.t.Errorf("the block ended %v too late", late)
		}
	})
}

// --scope new leaves established connections alone; --scope all does not.
func TestScopeNewLeavesEstablishedAlone(t *testing.T) {
	eachModeAndFamily(t, func(b *bench, mode datapath.Mode, f family) {
		b.attach(mode, nil)
		server := b.server(f.server, testenv.ServerOptions{Hold: true})
		conn, err := testenv.Dial(b.Client, f.client, server.Addr(), time.Second)
		if err != nil {
			b.t.Fatal(err)
		}
		defer conn.Close()
		host := netip.PrefixFrom(f.client, f.client.BitLen())
		b.block(datapath.Entry{Prefix: host, Scope: datapath.ScopeNew})
		b.mustNotConnect(server, f.client)
		before := b.packets("established")
		if _, err := conn.Write([]byte("still here")); err != nil {
			b.t.Fatal(err)
		}
		testenv.WaitFor(b.t, 5*time.Second, "data of the open connection to pass", func() bool { return b.packets("established") > before })
		b.block(datapath.Entry{Prefix: host, Scope: datapath.ScopeAll})
		blocked := b.packets("blocked")
		if _, err := conn.Write([]byte("and now")); err != nil {
			b.t.Fatal(err)
		}
		testenv.WaitFor(b.t, 5*time.Second, "data of the open connection to be dropped", func() bool { return b.packets("blocked") > blocked })
	})
}

// What is listed is what was typed, with hits; what has expired is not listed.
func TestEntriesTellWhatIsInForce(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	b.attach(datapath.ModeNative, nil)
	now := time.Now().Truncate(time.Second)
	entries := []datapath.Entry{
		{Prefix: netip.MustParsePrefix("10.77.0.2/32"), Created: now, By: "ann", Reason: "spam"},
		{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Created: now, By: "bob", Scope: datapath.ScopeNew, Expires: now.Add(time.Hour)},
		{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Created: now, Expires: now.Add(-time.Second)},
		{Prefix: netip.MustParsePrefix("2001:db8::/32"), Created: now, By: strings.Repeat("x", 100)},
		{Prefix: netip.MustParsePrefix("2001:db8:1:2::/64"), Created: now},
	}
	b.block(entries...)
	server := b.server(netip.MustParseAddr("10.77.0.1"), testenv.ServerOptions{})
	b.mustNotConnect(server, netip.MustParseAddr("10.77.0.2"))
	var got []datapath.Entry
	b.change(func(i *datapath.Instance) (err error) {
		got, err = i.Entries(datapath.Block)
		return err
	})
	if len(got) != 4 {
		t.Fatalf("entries: %+v", got)
	}
	if e := got[0]; e.Prefix != entries[0].Prefix || e.By != "ann" || e.Reason != "spam" || e.Hits != 1 || !e.Created.Equal(now) || !e.Expires.IsZero() {
		t.Errorf("first entry: %+v", e)
	}
	if e := got[1]; e.Scope != datapath.ScopeNew || e.Expires.Sub(now.Add(time.Hour)).Abs() > time.Second {
		t.Errorf("second entry: %+v", e)
	}
	b.block(entries[0])
	b.change(func(i *datapath.Instance) (err error) {
		got, err = i.Entries(datapath.Block)
		return err
	})
	if got[0].Hits != 1 {
		t.Errorf("an entry that was typed again lost its hits: %+v", got[0])
	}
}
