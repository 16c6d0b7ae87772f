// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/internal/trafficgen"
)

// churn opens and closes so many connections as fast as it can, from several threads. Every other one is closed by
// the server first.
func churn(client *testenv.Namespace, at netip.AddrPort, count int) (made int64) {
	const threads = 8
	var sum atomic.Int64
	var running sync.WaitGroup
	one := func(reads bool) bool {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return false
		}
		defer unix.Close(fd)
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		if unix.Connect(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}) != nil {
			return false
		}
		if reads {
			_, _ = unix.Read(fd, make([]byte, 1)) // the greeting, and then the server closes
		}
		return true
	}
	for range threads {
		running.Go(func() {
			_ = client.Do(func() error {
				for n := range count / threads {
					if one(n%2 == 0) {
						sum.Add(1)
					}
				}
				return nil
			})
		})
	}
	running.Wait()
	return sum.Load()
}

// 200,000 connections, opened and closed as fast as the machine can: then nothing is counted.
func TestConcurrentChurn(t *testing.T) {
	b := newConnBench(t, 100_000)
	server := b.server(b.ServerIP4, testenv.ServerOptions{})
	count := often(200_000, 20_000)
	start := time.Now()
	made := churn(b.Client, server.Addr(), count)
	t.Logf("%d connections in %v; %+v", made, time.Since(start), b.tallies())
	if made < int64(count)*9/10 {
		t.Errorf("only %d connections were made", made)
	}
	b.mustBeZero()
	if got := b.tallies(); int64(got.Opened+got.Late) < made {
		t.Errorf("%d connections were made and %+v counted", made, got)
	}
}

// SYNs forged in the name of a client hold its places while they come and fade after: then it connects.
func TestConcurrentForgedSYNsFade(t *testing.T) {
	b := newConnBench(t, 10)
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	c := b.craft("10.77.9.9")
	for n := range uint16(500) {
		c.send(craftFlow{20000 + n, 8080}, trafficgen.SYNFlag)
	}
	b.waitForPackets("over_concurrent", 400)
	if got := b.established("default", c.src); got != 0 {
		t.Errorf("%d connections are counted, of SYNs alone", got)
	}
	end := time.Now()
	if err := b.AddClientAddrs(c.src); err != nil {
		t.Fatal(err)
	}
	if _, err := testenv.Dial(b.Client, c.src, server.Addr(), 100*time.Millisecond); err == nil {
		t.Error("the client connects while forged SYNs hold its places")
	}
	testenv.WaitFor(t, connsDeadline, "the client to connect", func() bool {
		conn, err := testenv.Dial(b.Client, c.src, server.Addr(), 100*time.Millisecond)
		if err == nil {
			defer conn.Close()
		}
		return err == nil
	})
	t.Logf("it connects %v after the flood", time.Since(end))
	b.mustBeZero()
}

// waitForPackets waits until so many packets have ended for a reason.
func (b connBench) waitForPackets(reason string, want uint64) {
	b.t.Helper()
	testenv.WaitFor(b.t, connsDeadline, reason, func() bool { return b.packets(reason) >= want })
}

// Whom a limit leaves out is not counted: on the allow list, on the service's own, in except, not in from; nor
// connections of the server to itself.
func TestConcurrentLeavesOut(t *testing.T) {
	b := newConnBench(t, 1)
	others := map[string]netip.Addr{}
	for n, name := range []string{"allowed", "of the service", "except", "plain"} {
		others[name] = netip.AddrFrom4([4]byte{10, 77, 1, byte(n + 1)})
		if err := b.AddClientAddrs(others[name]); err != nil {
			t.Fatal(err)
		}
	}
	b.apply(`
version: 1
sets: {friends: [10.77.1.2/32], relays: [10.77.1.3/32]}
services:
  - name: web
    listen: [8080/tcp]
    allow: [friends]
    limits: [{per: source, concurrent: 1, except: [relays]}]
`)
	b.allow("10.77.1.1/32")
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	for name, addr := range others {
		first := b.dial(addr, server.Addr())
		second, err := testenv.Dial(b.Client, addr, server.Addr(), 400*time.Millisecond)
		if err == nil {
			_ = second.Close()
		}
		if refused := err != nil; refused != (name == "plain") {
			t.Errorf("%s: the second connection: %v", name, err)
		}
		_ = first.Close()
	}
	for range 3 {
		conn, err := testenv.Dial(b.Server, b.ServerIP4, server.Addr(), connsDeadline)
		if err != nil {
			t.Fatalf("the server to itself: %v", err)
		}
		defer conn.Close()
	}
	b.mustCountAt("web", b.ServerIP4, 0)
	b.mustBeZero()
}

// Under mode observe, and over a limit that observes, all are counted and none is refused.
func TestConcurrentObserves(t *testing.T) {
	for name, text := range map[string]string{
		"mode":  "version: 1\nmode: observe\nservices: [{name: web, listen: [8080/tcp], limits: [{per: source, concurrent: 2}]}]\n",
		"limit": "version: 1\nservices: [{name: web, listen: [8080/tcp], limits: [{per: source, concurrent: 2, over: observe}]}]\n",
	} {
		t.Run(name, func(t *testing.T) {
			b := newConnBench(t, 1)
			b.apply(text)
			server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
			var open []interface{ Close() error }
			for range 5 {
				open = append(open, b.dial(b.ClientIP4, server.Addr()))
			}
			b.mustCountAt("web", b.ClientIP4, 5)
			// Where the machine stands still, a client sends its SYN again.
			repeated := b.clientCounter("netstat", "TcpExt:", "TCPSynRetrans")
			if got := b.packets("over_concurrent"); got < 3 || got > 3+repeated {
				t.Errorf("%d SYNs were over the limit, want 3, and as many as %d that came again", got, repeated)
			}
			for _, conn := range open {
				_ = conn.Close()
			}
			b.mustBeZero()
		})
	}
}

// Over a limit that resets, a SYN is answered at once.
func TestConcurrentResets(t *testing.T) {
	b := connBench{newBench(t, testenv.PairOptions{GRO: true})}
	b.attach("tc", nil)
	b.apply("version: 1\nservices: [{name: web, listen: [8080/tcp], limits: [{per: source, concurrent: 1, over: reset}]}]\n")
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	conn := b.dial(b.ClientIP4, server.Addr())
	b.mustCountAt("web", b.ClientIP4, 1)
	if _, err := testenv.Dial(b.Client, b.ClientIP4, server.Addr(), connsDeadline); err == nil {
		t.Error("a second connection was made")
	} else if b.packets("over_concurrent") != 1 {
		t.Errorf("it was not refused at once: %v", err)
	}
	_ = conn.Close()
	b.mustBeZero()
}

// Whoever is connected waits no more: a source that opened most of its places may open the others at once.
func TestConcurrentWaitsOnce(t *testing.T) {
	b := newConnBench(t, 10)
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	before := b.packets("over_concurrent")
	for want := uint64(2); want <= 10; want += 2 {
		b.openSome(server.Addr(), 2)
		b.mustCount(want)
	}
	if got := b.packets("over_concurrent") - before; got != 0 {
		t.Errorf("%d SYNs were refused below the limit", got)
	}
}
