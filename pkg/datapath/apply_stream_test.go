// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// The pace of a stream on each of its CPUs: low enough that no queue of a veth fills.
const (
	streamTick      = time.Millisecond
	streamFrames    = 5
	streamPatience  = 10 * time.Second
	streamCPUs      = 2
	streamReadPause = time.Millisecond
)

// stream sends frames from the client, over and over, from two CPUs at once. It knows how many it has sent.
type stream struct {
	*bench
	index   int
	frames  [][]byte
	sent    atomic.Uint64
	cancel  context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	failed  error
}

// startStream sends the frames until stop.
func (b *bench) startStream(frames [][]byte) *stream {
	b.t.Helper()
	needCPUs(b.t)
	s := &stream{bench: b, frames: frames}
	var err error
	if s.index, err = b.ClientIndex(); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	for cpu := range streamCPUs {
		s.running.Go(func() {
			err := b.Client.Do(func() error { return onCPU(cpu, func() error { return s.run(ctx, cpu) }) })
			s.mu.Lock()
			defer s.mu.Unlock()
			s.failed = errors.Join(s.failed, err)
		})
	}
	b.t.Cleanup(s.halt)
	return s
}

func (s *stream) halt() {
	s.cancel()
	s.running.Wait()
}

// stop ends the stream and returns how many frames were handed to the interface.
func (s *stream) stop() uint64 {
	s.t.Helper()
	s.halt()
	if s.failed != nil {
		s.t.Fatalf("stream: %v", s.failed)
	}
	return s.sent.Load()
}

// run begins on each CPU with another frame.
func (s *stream) run(ctx context.Context, cpu int) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	defer unix.Close(fd)
	tick := time.NewTicker(streamTick)
	defer tick.Stop()
	for next := cpu * len(s.frames) / streamCPUs; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for range streamFrames {
			err := unix.Sendto(fd, s.frames[next], 0, &unix.SockaddrLinklayer{Ifindex: s.index})
			if err != nil {
				return fmt.Errorf("send frame %d: %w", next, err)
			}
			s.sent.Add(1)
			next = (next + 1) % len(s.frames)
		}
	}
}

func (b *bench) send(frames [][]byte) {
	b.t.Helper()
	index, err := b.ClientIndex()
	if err == nil {
		err = tg.Send(b.Client, index, frames...)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// synFrame is a SYN as the client would send it.
func (b *bench) synFrame(from netip.Addr, to netip.AddrPort) []byte {
	b.t.Helper()
	client, err := b.Client.MAC(b.ClientIf)
	server, serverErr := b.Server.MAC(b.ServerIf)
	if err := errors.Join(err, serverErr); err != nil {
		b.t.Fatal(err)
	}
	return tg.SYN(netip.AddrPortFrom(from, 40000), to).With(tg.MACs(client, server)).Bytes()
}

// synFrameFrom goes to the server's first address of the family.
func (b *bench) synFrameFrom(from string, port uint16) []byte {
	b.t.Helper()
	src, dst := netip.MustParseAddr(from), b.ServerIP4
	if src.Is6() {
		dst = b.ServerIP6
	}
	return b.synFrame(src, netip.AddrPortFrom(dst, port))
}

// waitUntil is a time of the data path's clock.
func (b *bench) waitUntil(at time.Duration) {
	b.t.Helper()
	wait := at - datapath.Monotonic() + streamPatience
	testenv.WaitFor(b.t, wait, "a time to come", func() bool { return datapath.Monotonic() >= at })
}

// read runs fn on the instance as it lies there: opened for reading, it changes nothing.
func (b *bench) read(fn func(i *datapath.Instance) error) {
	b.t.Helper()
	err := b.Server.Do(func() error {
		i, err := datapath.Open(b.pinDir)
		if err != nil {
			return err
		}
		defer i.Close()
		return fn(i)
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) tally() tally {
	b.t.Helper()
	return datapath.ReadEnds(b.t, b.pinDir)
}

func (t tally) total() (n uint64) {
	for _, one := range t {
		n += one
	}
	return n
}

// since waits until so many more packets are counted than in before, and returns what they were.
func (b *bench) since(before tally, packets uint64) (moved tally) {
	b.t.Helper()
	for deadline := time.Now().Add(streamPatience); ; <-time.After(streamReadPause) {
		moved = b.tally().minus(before)
		if moved.total() >= packets || time.Now().After(deadline) {
			break
		}
	}
	if moved.total() != packets {
		b.t.Errorf("sent %d packets, judged %d: %v", packets, moved.total(), moved)
	}
	return moved
}

// mustHaveJudgedAll wants the one interface armed, and every packet that it ever received judged.
func (b *bench) mustHaveJudgedAll() {
	b.t.Helper()
	var all []datapath.Interface
	b.read(func(i *datapath.Instance) (err error) { all, err = i.Interfaces(); return err })
	if len(all) != 1 || !all[0].Armed || all[0].Judged != all[0].Received {
		b.t.Errorf("status: %+v, want one interface, armed, with all judged that was received", all)
	}
}

// newStreamBench is a bench where a packet that met no program would still arrive, and be missed by the
// counters: without GRO a veth loses what its own XDP program does not take.
func newStreamBench(t *testing.T) *bench {
	t.Helper()
	return newBench(t, testenv.PairOptions{GRO: true})
}
