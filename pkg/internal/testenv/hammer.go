// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// maxInFlight bounds how many attempts of one Hammer wait for an answer at the same time.
const maxInFlight = 4096

// HammerOptions says who connects where, how fast and for how long. At least one of Count and Duration must be
// set; whichever is reached first ends it.
type HammerOptions struct {
	// Sources take turns. Their addresses must be local to the namespace and of Dst's family.
	Sources []netip.Addr
	// Dst is where a Server that greets listens.
	Dst netip.AddrPort
	// Rate is attempts per second, spaced evenly; 0 is as fast as possible.
	Rate float64
	// Count is how many attempts are made; 0 is no bound.
	Count int
	// Duration is how long new attempts are started; 0 is no bound.
	Duration time.Duration
	// Timeout bounds the handshake and the greeting of an attempt, each; 0 is 300 ms. Below one second every
	// attempt sends exactly one SYN, unless the machine stands still for the rest of it.
	Timeout time.Duration
}

// HammerResult counts attempts by how they ended. Attempted is the sum of the others.
type HammerResult struct {
	Attempted int
	Accepted  int // the server greeted
	NoAnswer  int // ErrNoAnswer
	Refused   int // ErrRefused
	NotServed int // ErrNotServed
	Failed    int // any other error
	// LastErr is the last error that Failed counts.
	LastErr error
	// Elapsed is the time from the first attempt to the end of the last one.
	Elapsed time.Duration
}

// Hammer opens connections out of ns at a given pace, side by side, and returns when the last has ended. Each
// goes the way of Connect. An attempt that falls behind its time, because this machine is slow or too many wait
// for an answer, is made late and not left out. The error is about the options or the namespace, never about an
// attempt.
func Hammer(ns *Namespace, opts HammerOptions) (HammerResult, error) {
	if opts.Count <= 0 && opts.Duration <= 0 {
		return HammerResult{}, errors.New("hammer: neither count nor duration is set, it would never end")
	}
	if len(opts.Sources) == 0 || !opts.Dst.IsValid() || opts.Rate < 0 {
		return HammerResult{}, errors.New("hammer: sources and destination must be set and the rate not negative")
	}
	if opts.Timeout == 0 {
		opts.Timeout = 300 * time.Millisecond
	}
	h := hammer{opts: opts, slots: make(chan struct{}, maxInFlight)}
	begin := time.Now()
	err := ns.Do(func() error {
		h.launch(begin)
		return nil
	})
	h.running.Wait()
	if err != nil {
		return HammerResult{}, fmt.Errorf("hammer: %w", err)
	}
	h.result.Elapsed = time.Since(begin)
	return h.result, nil
}

type hammer struct {
	opts    HammerOptions
	slots   chan struct{}
	running sync.WaitGroup

	mu     sync.Mutex
	result HammerResult
}

// launch sends the SYNs from the calling thread, which is in the namespace; sockets keep the namespace that
// they were made in, so that the rest of an attempt goes on anywhere.
func (h *hammer) launch(begin time.Time) {
	for n := 0; h.opts.Count <= 0 || n < h.opts.Count; n++ {
		if h.opts.Rate > 0 {
			due := begin.Add(time.Duration(float64(n) / h.opts.Rate * float64(time.Second)))
			if wait := time.Until(due); wait > 0 {
				<-time.After(wait)
			}
		}
		h.slots <- struct{}{}
		if h.opts.Duration > 0 && time.Since(begin) >= h.opts.Duration {
			return
		}
		src := h.opts.Sources[n%len(h.opts.Sources)]
		late := time.Now().Add(h.opts.Timeout) // before the SYN, which must not be sent twice
		fd, err := startConnect(netip.AddrPortFrom(src, 0), h.opts.Dst)
		h.running.Go(func() {
			if err == nil {
				err = h.finish(fd, late)
			} else {
				err = classify(err)
			}
			h.count(err)
			<-h.slots
		})
	}
}

func (h *hammer) finish(fd int, late time.Time) error {
	conn, err := finishConnect(fd, time.Until(late))
	if err != nil {
		return err
	}
	return awaitGreeting(conn, h.opts.Timeout)
}

func (h *hammer) count(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &h.result
	r.Attempted++
	switch {
	case err == nil:
		r.Accepted++
	case errors.Is(err, ErrNoAnswer):
		r.NoAnswer++
	case errors.Is(err, ErrRefused):
		r.Refused++
	case errors.Is(err, ErrNotServed):
		r.NotServed++
	default:
		r.Failed++
		r.LastErr = err
	}
}
