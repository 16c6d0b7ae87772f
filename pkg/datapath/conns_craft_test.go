// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/internal/trafficgen"
)

// craft is a client without a TCP of its own: it sends what it is told to, and remembers the answers. Its address is
// nobody's, so no kernel resets what it leaves open.
type craft struct {
	connBench
	src netip.Addr
	fd  int
	mac [6]byte

	mu      sync.Mutex
	answers map[craftFlow]craftAnswer
}

// craftFlow is a port of the client and one of the server.
type craftFlow struct{ src, dst uint16 }

// craftAnswer is the last SYN-ACK of a flow, how many came, and whether a RST did.
type craftAnswer struct {
	seq   uint32
	count int
	reset bool
}

func (b connBench) craft(src string) *craft {
	b.t.Helper()
	c := &craft{connBench: b, src: netip.MustParseAddr(src), answers: map[craftFlow]craftAnswer{}}
	mac, err := b.Server.MAC(b.ServerIf)
	if err != nil {
		b.t.Fatal(err)
	}
	copy(c.mac[:], mac)
	index, err := b.ClientIndex()
	if err != nil {
		b.t.Fatal(err)
	}
	err = b.Client.Do(func() (err error) {
		const all = 0x0300 // ETH_P_ALL in network byte order
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return errors.Join(
			unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}),
			unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
			unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
	})
	if err != nil {
		b.t.Fatal(err)
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { c.listen(stop) })
	b.t.Cleanup(func() {
		close(stop)
		running.Wait()
		_ = unix.Close(c.fd)
	})
	return c
}

// listen takes in IPv4 segments to the client until it is told to stop.
func (c *craft) listen(stop <-chan struct{}) {
	frame := make([]byte, 4096)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, _, err := unix.Recvfrom(c.fd, frame, 0)
		if err != nil || n < 54 || binary.BigEndian.Uint16(frame[12:]) != trafficgen.EtherTypeIPv4 {
			continue
		}
		ip, dst := frame[14:n], c.src.As4()
		if ip[0] != 0x45 || ip[9] != trafficgen.TCP || [4]byte(ip[16:20]) != dst {
			continue
		}
		c.note(ip[20:])
	}
}

func (c *craft) note(tcp []byte) {
	f := craftFlow{binary.BigEndian.Uint16(tcp[2:]), binary.BigEndian.Uint16(tcp)}
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.answers[f]
	switch flags := tcp[13]; {
	case flags&trafficgen.RST != 0:
		a.reset = true
	case flags&(trafficgen.SYNFlag|trafficgen.ACK) == trafficgen.SYNFlag|trafficgen.ACK:
		a.seq = binary.BigEndian.Uint32(tcp[4:])
		a.count++
	}
	c.answers[f] = a
}

func (c *craft) answer(f craftFlow) craftAnswer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers[f]
}

// send sends a segment of a flow: a SYN has the sequence number of Segment, what follows the one behind it.
func (c *craft) send(f craftFlow, flags uint8) {
	c.t.Helper()
	p := trafficgen.Segment(netip.AddrPortFrom(c.src, f.src), netip.AddrPortFrom(c.ServerIP4, f.dst), flags)
	p.DstMAC = c.mac
	if flags&trafficgen.SYNFlag == 0 {
		p.Seq++
		p.Ack = c.answer(f).seq + 1
	}
	if err := unix.Send(c.fd, p.Bytes(), 0); err != nil {
		c.t.Error(err)
	}
}

// halfOpen sends the SYNs of all flows, again and again, until each was answered often enough.
func (c *craft) halfOpen(flows []craftFlow, answers int) {
	c.t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(90 * time.Second); ; <-tick.C {
		missing := 0
		for _, f := range flows {
			if got := c.answer(f).count; got == 0 {
				c.send(f, trafficgen.SYNFlag)
				missing++
			} else if got < answers {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("%d of %d SYNs were not answered %d times", missing, len(flows), answers)
		}
	}
}

// Requests whose last ACK is withheld are many more than the limit. When all ACKs come, 100 are established and
// not one more, however often they come again. The SYN-ACK is sent again after 1, 3, 7, 15 and 31 seconds.
func TestConcurrentWithheldACKs(t *testing.T) {
	waits := map[string]int{"3 s": 3, "31 s": 6}
	if emulated() {
		delete(waits, "31 s")
	}
	for name, answers := range waits {
		t.Run(name, func(t *testing.T) {
			b := newConnBench(t, 100)
			var servers []*testenv.Server
			for _, port := range []uint16{8080, 8081, 8082} {
				at := netip.AddrPortFrom(b.ServerIP4, port)
				servers = append(servers, testenv.NewServer(t, b.Server, at, testenv.ServerOptions{Hold: true, Silent: true}))
			}
			accepted := func() (n int) {
				for _, s := range servers {
					n += s.Total()
				}
				return n
			}
			c := b.craft("10.77.9.9")
			var flows []craftFlow
			for n := range uint16(300) {
				flows = append(flows, craftFlow{20000 + n, 8080 + n%3})
			}
			c.halfOpen(flows, answers)
			for range 4 {
				for _, f := range flows {
					c.send(f, trafficgen.ACK)
				}
			}
			testenv.WaitFor(t, connsDeadline, "200 requests to be refused four times", func() bool {
				return b.tallies().Refused >= 800
			})
			b.mustCountAt("default", c.src, 100)
			testenv.WaitFor(t, connsDeadline, "100 connections to be accepted", func() bool { return accepted() >= 100 })
			if got := accepted(); got != 100 {
				t.Errorf("%d connections were accepted, want 100; %+v", got, b.tallies())
			}
			for _, f := range flows {
				c.send(f, trafficgen.RST|trafficgen.ACK)
			}
			b.mustBeZero()
			b.mustHaveAsked()
		})
	}
}

// Here no SYN is refused early, for all were answered before there was a limit: the gate alone decides, on two CPUs
// at once, which of 300 ACKs get a place.
func TestConcurrentIsExactAtTheGate(t *testing.T) {
	b := newConnBench(t, 0)
	server := b.server(b.ServerIP4, testenv.ServerOptions{Hold: true, Silent: true})
	c := b.craft("10.77.9.9")
	for run := range uint16(often(20, 5)) {
		server.Reset()
		var flows []craftFlow
		for n := range uint16(300) {
			flows = append(flows, craftFlow{20000 + 300*run + n, server.Addr().Port()})
		}
		c.halfOpen(flows, 1)
		before := b.tallies().Refused
		b.limit(100)
		c.onTwoCPUs(flows, trafficgen.ACK, 2)
		testenv.WaitFor(t, connsDeadline, "200 requests to be refused twice", func() bool {
			return b.tallies().Refused-before >= 400
		})
		b.mustCountAt(datapath.DefaultService, c.src, 100)
		testenv.WaitFor(t, connsDeadline, "100 connections to be accepted", func() bool { return server.Total() >= 100 })
		if got := server.Total(); got != 100 {
			t.Errorf("run %d: %d connections were accepted, want 100; %+v", run, got, b.tallies())
		}
		c.onTwoCPUs(flows, trafficgen.RST|trafficgen.ACK, 1)
		b.mustBeZero()
		b.mustHaveAsked()
		b.limit(0)
	}
	if got := b.packets("over_concurrent"); got != 0 {
		t.Errorf("%d SYNs were refused early, want 0", got)
	}
}

// onTwoCPUs sends a segment of every flow so many times, half of the flows from each of two CPUs.
func (c *craft) onTwoCPUs(flows []craftFlow, flags uint8, times int) {
	c.t.Helper()
	needCPUs(c.t)
	var running sync.WaitGroup
	for cpu := range 2 {
		running.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				c.t.Error(err)
			}
			for range times {
				for n := cpu; n < len(flows); n += 2 {
					c.send(flows[n], flags)
				}
			}
		})
	}
	running.Wait()
}

// manyConns are connections that a client has begun, and whether it takes them for open is not asked: none is
// given up before the test ends them.
type manyConns []int

func (b connBench) begin(dst netip.AddrPort, count int) (open manyConns) {
	b.t.Helper()
	err := b.Client.Do(func() error {
		for range count {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			open = append(open, fd)
			err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(dst.Port()), Addr: dst.Addr().As4()})
			if err != nil && !errors.Is(err, unix.EINPROGRESS) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return open
}

// abort resets all of them.
func (m manyConns) abort() {
	for _, fd := range m {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		_ = unix.Close(fd)
	}
}
