// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

// connsDeadline is how long a test waits for what must come.
const connsDeadline = 20 * time.Second

// connBench is a pair whose server counts connections.
type connBench struct{ *bench }

// newConnBench attaches with a limit of concurrent connections per source on all ports.
func newConnBench(t *testing.T, most uint64) connBench {
	t.Helper()
	b := connBench{newBench(t, testenv.PairOptions{})}
	b.attach(datapath.ModeAuto, nil)
	b.limit(most)
	return b
}

// limit sets the limit of concurrent connections per source of the service default.
func (b connBench) limit(most uint64) {
	b.t.Helper()
	b.change(func(i *datapath.Instance) error { return setConcurrent(i, most) })
}

// setConcurrent puts it in force; 0 takes it away.
func setConcurrent(i *datapath.Instance, most uint64) error {
	p, err := i.PolicyInForce()
	if err != nil {
		return err
	}
	change := policy.LimitChange{Concurrent: &most, ConcurrentOff: most == 0}
	next, err := policy.WithLimit(p, datapath.DefaultService, change)
	if err != nil {
		return err
	}
	return i.Apply(datapath.ApplyOptions{Policy: next, By: "test"})
}

func (b connBench) tallies() (out datapath.ConnTallies) {
	b.t.Helper()
	b.read(func(i *datapath.Instance) (err error) {
		out, err = i.ConnTallies()
		return err
	})
	return out
}

func (b connBench) counts() (out []datapath.ConnCount) {
	b.t.Helper()
	b.read(func(i *datapath.Instance) (err error) {
		out, err = i.ConnCounts()
		return err
	})
	return out
}

// established is what is counted of a source at a service.
func (b connBench) established(service string, addr netip.Addr) uint64 {
	b.t.Helper()
	for _, c := range b.counts() {
		if c.Service == service && c.Source.Contains(addr) {
			return c.Established
		}
	}
	return 0
}

// mustCount waits until so many connections of the client are counted.
func (b connBench) mustCount(want uint64) {
	b.t.Helper()
	b.mustCountAt(datapath.DefaultService, b.ClientIP4, want)
}

func (b connBench) mustCountAt(service string, addr netip.Addr, want uint64) {
	b.t.Helper()
	got := b.established(service, addr)
	for end := time.Now().Add(connsDeadline); got != want && time.Now().Before(end); {
		got = b.established(service, addr)
	}
	if got != want {
		b.t.Fatalf("%s has %d connections to %s, want %d; %+v, %+v", addr, got, service, want, b.counts(), b.tallies())
	}
}

// touchCPUs has the gate run on every CPU, as any packet does: a place that an ACK reserved in vain is held until
// then.
func touchCPUs(t *testing.T) {
	t.Helper()
	for cpu := range runtime.NumCPU() {
		done := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			var set unix.CPUSet
			set.Set(cpu)
			done <- errors.Join(unix.SchedSetaffinity(0, &set), sendToSelf())
		}()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// sendToSelf sends one datagram over lo.
func sendToSelf() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	if err := unix.Sendto(fd, []byte("x"), 0, own); err != nil {
		return err
	}
	_, _, err = unix.Recvfrom(fd, make([]byte, 1), 0)
	return err
}

// mustBeZero waits until nothing is counted any more, and wants nothing lost on the way.
func (b connBench) mustBeZero() {
	b.t.Helper()
	touchCPUs(b.t)
	var left []datapath.ConnCount
	ok := false
	for end := time.Now().Add(connsDeadline); !ok && time.Now().Before(end); {
		left = b.counts()
		ok = len(left) == 0
	}
	tallies := b.tallies()
	if !ok {
		b.t.Errorf("still counted: %+v (%+v)", left, tallies)
	}
	if tallies.Lost != 0 || tallies.Uncounted != 0 {
		b.t.Errorf("tallies: %+v", tallies)
	}
}

// mustHaveAsked wants every connection to have asked the gate for its place.
func (b connBench) mustHaveAsked() {
	b.t.Helper()
	if got := b.tallies(); got.Late != 0 {
		b.t.Errorf("%d connections were counted that had asked for no place: %+v", got.Late, got)
	}
}
