// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// Where the policy says so a client is told, and nowhere else: not over a limit that drops, not by the block
// list, not over the limit of another set of sources.
const resettingPolicy = `
version: 1
sets: {relays: [10.77.1.0/24, "fd77:0:0:1::/64"]}
services:
  - {name: web, listen: [8080/tcp], limits: [{per: source, new: 1/d, burst: 3, over: reset}]}
  - {name: ssh, listen: [8022/tcp], limits: [{per: source, new: 1/d, burst: 3}]}
  - name: mail
    listen: [8025/tcp]
    limits:
      - {per: source, new: 1/d, burst: 3, from: [relays]}
      - {per: source, new: 1/d, burst: 3, over: reset, except: [relays]}
block: [10.77.2.0/24, "fd77:0:0:2::/64"]
`

// watchClient puts an observing instance on the client's interface: what XDP sends back by a veth its peer
// takes only while it runs XDP itself.
func (b *bench) watchClient() {
	b.t.Helper()
	dir := testenv.BPFFS(b.t) + "/client"
	b.t.Cleanup(func() {
		if _, err := datapath.DetachAll(dir); err != nil {
			b.t.Errorf("detach --all: %v", err)
		}
	})
	err := b.Client.Do(func() error {
		_, err := datapath.Attach(datapath.AttachOptions{PinDir: dir, Interface: b.ClientIf, Mode: datapath.ModeNative})
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// A client over a limit with over: reset is refused at once, and one over another limit gets no answer.
func TestPolicyResetsWhereItSaysSo(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, from := range map[string][3]string{
			"IPv4": {"10.77.0.2", "10.77.1.2", "10.77.2.2"}, "IPv6": {"fd77::2", "fd77:0:0:1::2", "fd77:0:0:2::2"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // it mostly waits for answers that do not come
				stranger, relay, denied := netip.MustParseAddr(from[0]), netip.MustParseAddr(from[1]), netip.MustParseAddr(from[2])
				b := newBench(t, testenv.PairOptions{ClientAddrs: []netip.Addr{relay, denied}})
				b.attach(mode, nil)
				b.apply(resettingPolicy)
				if mode == datapath.ModeNative {
					b.watchClient()
				}
				to := b.ServerIP4
				if stranger.Is6() {
					to = b.ServerIP6
				}
				b.mustEndAs(netip.AddrPortFrom(to, 8080), testenv.ErrRefused, stranger, relay)
				b.mustEndAs(netip.AddrPortFrom(to, 8022), testenv.ErrNoAnswer, stranger)
				b.mustEndAs(netip.AddrPortFrom(to, 8025), testenv.ErrRefused, stranger)
				b.mustEndAs(netip.AddrPortFrom(to, 8025), testenv.ErrNoAnswer, relay)
				err := testenv.Connect(b.Client, denied, netip.AddrPortFrom(to, 8080), oneSYN)
				if !errors.Is(err, testenv.ErrNoAnswer) {
					t.Errorf("connect from a blocked source: %v, want no answer", err)
				}
				if got := b.tally(); got["over_new reset"] < 3*3 || got["blocked drop"] == 0 {
					t.Errorf("counted %v", got)
				}
			})
		}
	})
}

// mustEndAs connects from each source: three times well, and then like this.
func (b *bench) mustEndAs(to netip.AddrPort, want error, sources ...netip.Addr) {
	b.t.Helper()
	server := testenv.NewServer(b.t, b.Server, to, testenv.ServerOptions{})
	defer server.Close()
	timeout, over := oneSYN, 1
	if errors.Is(want, testenv.ErrRefused) {
		timeout, over = streamPatience, 3 // refused at once, on a machine that is not too busy
	}
	for _, from := range sources {
		for range 3 {
			if err := testenv.Connect(b.Client, from, to, streamPatience); err != nil {
				b.t.Fatalf("connect from %s to %s: %v", from, to, err)
			}
		}
		for range over {
			begin := time.Now()
			if err := testenv.Connect(b.Client, from, to, timeout); !errors.Is(err, want) {
				b.t.Fatalf("connect from %s to %s over the limit: %v after %v, want %v", from, to, err, time.Since(begin), want)
			}
		}
		if got := server.Count(from); got != 3 {
			b.t.Errorf("the server on %s accepted %d of %s, want 3", to, got, from)
		}
	}
}
