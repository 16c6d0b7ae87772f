// SPDX-License-Identifier: Apache-2.0

package trafficgen

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// chunk is how many frames are sent by one system call, and so between two looks at the clock: about 4 ms.
	chunk = 16384
	// batch is how many frames the kernel moves at a time; veth rings hold 256.
	batch = 64
	// pace is the shortest wait between two chunks of a flood with a rate.
	pace = time.Millisecond
)

// Namespace is where a flood is sent, such as a testenv.Namespace. Do runs fn on a thread inside it.
type Namespace interface {
	Do(fn func() error) error
}

// Ports is a range of source ports, both ends included. The zero value is 1024 to 65535.
type Ports struct{ First, Last uint16 }

// Options says what flood Run sends. Packets or Duration, or both, must be set.
type Options struct {
	// Namespace must be set: nothing is ever sent in the namespace of the caller.
	Namespace Namespace
	// Ifindex is the interface that frames leave by. If it is a veth, the other end must run a native XDP program
	// or have GRO on, or everything is lost. Frames longer than the MTU are lost.
	Ifindex int
	// Template is what every frame looks like, but for its source. It must be IP with an Ethernet header, and
	// Src may be left out.
	Template Packet
	Mix      Mix
	Seed     uint64
	// Ports are the source ports of TCP and UDP. With a range that is not random, a source keeps its port until
	// each source has had its turn. KeepPort sends the template's port always.
	Ports    Ports
	KeepPort bool
	// KeepSeq sends the template's TCP sequence number always; else every frame has a random one.
	KeepSeq bool
	// First is the number of the first frame in the Schedule, to go on where another flood has ended.
	First uint64
	// Packets and Duration bound the flood; 0 is no bound. The first is exact, the second good to about 5 ms.
	Packets  uint64
	Duration time.Duration
	// Rate is packets per second; 0 is as fast as possible. It is kept on average: what was late is caught up.
	Rate float64
	// CPUs send side by side, each its share of the frames (every n-th). Empty is one sender on any CPU.
	CPUs []int
}

// Run sends a flood and returns how many frames were handed to the interface. That it took them is not said:
// a receiver that is too slow, or an interface that is down, loses frames silently. When ctx ends, Run returns
// the number sent so far and the error of ctx. Needs CAP_BPF, CAP_NET_ADMIN and kernel 5.18.
func Run(ctx context.Context, opts Options) (sent uint64, err error) {
	if err := opts.validate(); err != nil {
		return 0, fmt.Errorf("generate: %w", err)
	}
	schedule, err := NewSchedule(opts.Mix, opts.Seed)
	if err != nil {
		return 0, fmt.Errorf("generate: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	count := max(1, len(opts.CPUs))
	senders := make([]*sender, count)
	for i := range senders {
		if senders[i], err = newSender(opts, schedule, i, count); err != nil {
			return 0, fmt.Errorf("generate: %w", err)
		}
		defer senders[i].close()
	}
	var running sync.WaitGroup
	for _, s := range senders {
		running.Go(func() {
			if err := opts.Namespace.Do(func() error { return s.send(ctx) }); err != nil {
				cancel(fmt.Errorf("generate: %w", err))
			}
		})
	}
	running.Wait()
	for _, s := range senders {
		sent += s.sent
	}
	return sent, context.Cause(ctx)
}

func (o Options) validate() error {
	t := o.Template
	switch {
	case o.Namespace == nil:
		return errors.New("no namespace given, and that of the caller is never used")
	case o.Packets == 0 && o.Duration <= 0:
		return errors.New("neither packets nor duration is set, it would never end")
	case o.Ifindex <= 0 || o.Rate < 0 || o.Ports.Last < o.Ports.First:
		return errors.New("interface, rate or ports make no sense")
	case len(o.Mix) == 0 || t.Dst.Is6() != o.Mix[0].Prefix.Addr().Is6():
		return errors.New("mix and destination are not of one family")
	case t.NoLink || !t.Dst.IsValid() || t.IPChecksum != nil:
		return errors.New("template must be IP with an Ethernet header, its IP checksum not fixed")
	}
	return nil
}

// sender is one loaded program and its share of the flood.
type sender struct {
	program  generatorObjects
	release  func()
	frame    []byte
	cpu      int // -1: any
	limit    uint64
	rate     float64
	duration time.Duration
	sent     uint64
}

func (s *sender) close() {
	s.release()
	_ = s.program.Close()
}

// send runs on a thread inside the namespace until the share is sent, the time is over or ctx ends.
func (s *sender) send(ctx context.Context) (err error) {
	if s.cpu >= 0 {
		unpin, err := pin(s.cpu)
		if err != nil {
			return err
		}
		defer unpin()
	}
	begin := time.Now()
	for s.sent < s.limit && ctx.Err() == nil {
		elapsed := time.Since(begin)
		if s.duration > 0 && elapsed >= s.duration {
			return nil
		}
		due := uint64(chunk)
		if s.rate > 0 {
			due = uint64(s.rate*elapsed.Seconds()) + 1
			due -= min(due, s.sent)
		}
		if due = min(due, chunk, s.limit-s.sent); due == 0 {
			s.wait(ctx, begin)
			continue
		}
		if err := s.run(uint32(due)); err != nil {
			return err
		}
	}
	return nil
}

// wait lasts until the next frame is due, a little longer at high rates.
func (s *sender) wait(ctx context.Context, begin time.Time) {
	next := begin.Add(time.Duration(float64(s.sent) / s.rate * float64(time.Second)))
	timer := time.NewTimer(max(pace, time.Until(next)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// pin ties the calling thread, which must be locked, to one CPU.
func pin(cpu int) (unpin func(), err error) {
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, fmt.Errorf("read cpu affinity: %w", err)
	}
	only.Set(cpu)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return nil, fmt.Errorf("pin to cpu %d: %w", cpu, err)
	}
	return func() { _ = unix.SchedSetaffinity(0, &before) }, nil
}
