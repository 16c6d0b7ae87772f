// SPDX-License-Identifier: Apache-2.0

package trafficgen

//go:generate go tool bpf2go -target bpfel generator generator.bpf.c -- -O2 -g -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The kinds of transport in generator.bpf.c.
const (
	transportNone = iota
	transportUDP
	transportTCP
	transportICMPv6
)

// templateWords is how much of a frame is written anew each time, in 8 bytes: all headers of a TCP segment.
const templateWords = 16

// newSender loads the program for the i-th of count senders.
func newSender(opts Options, schedule *Schedule, i, count int) (*sender, error) {
	s := &sender{cpu: -1, limit: math.MaxUint64, rate: opts.Rate / float64(count), duration: opts.Duration}
	if len(opts.CPUs) > 0 {
		s.cpu = opts.CPUs[i]
	}
	if opts.Packets > 0 {
		s.limit = (opts.Packets + uint64(count-1-i)) / uint64(count)
	}
	spec, err := loadGenerator()
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	v := &setter{spec: spec}
	schedule.set(v)
	s.frame = opts.setTemplate(v)
	v.set(generatorVarFirstFrame, opts.First+uint64(i))
	v.set(generatorVarFrameStride, uint64(count))
	v.set(generatorVarFrameLimit, s.limit)
	v.set(generatorVarOutIfindex, uint32(opts.Ifindex))
	if v.err != nil {
		return nil, fmt.Errorf("configure program: %w", v.err)
	}
	if err := spec.LoadAndAssign(&s.program, nil); err != nil {
		return nil, fmt.Errorf("load program: %w", err)
	}
	if s.release, err = hold(s.program.Generate); err != nil {
		_ = s.program.Close()
		return nil, err
	}
	return s, nil
}

// run sends n frames from the calling thread's namespace and notes how many really went.
func (s *sender) run(n uint32) error {
	_, err := s.program.Generate.Run(&ebpf.RunOptions{
		Data: s.frame, Repeat: n, BatchSize: batch, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES,
	})
	before := s.sent
	if err := errors.Join(err, s.program.FramesDone.Get(&s.sent)); err != nil {
		return fmt.Errorf("run program: %w", err)
	}
	if s.sent == before {
		return errors.New("run program: it sent nothing")
	}
	return nil
}

// setter sets constants of a program that is not yet loaded and keeps the first error.
type setter struct {
	spec *ebpf.CollectionSpec
	err  error
}

func (v *setter) set(name string, value any) {
	if v.err == nil {
		v.err = v.spec.Variables[name].Set(value)
	}
}

func (s *Schedule) set(v *setter) {
	var ranges [maxRanges]generatorRange
	var slots [maxSlots]generatorSlot
	copy(ranges[:], s.ranges)
	copy(slots[:], s.slots)
	v.set(generatorVarRanges, ranges)
	v.set(generatorVarSlots, slots)
	v.set(generatorVarSlotCount, uint32(len(s.slots)))
	v.set(generatorVarSeed, s.seed)
	v.set(generatorVarIsIp6, flag(s.ip6))
}

// setTemplate builds the template and the checksums of all in it that stays the same.
func (o Options) setTemplate(v *setter) []byte {
	p := o.Template.With()
	p.Src = netip.IPv4Unspecified()
	if p.Dst.Is6() {
		p.Src = netip.IPv6Unspecified()
	}
	kind, checksumOffset := p.kind()
	if kind != transportNone {
		p.Checksum = new(uint16(0))
	}
	ports := o.portCount(kind)
	if ports > 0 {
		p.SrcPort = 0
	}
	newSeq := kind == transportTCP && !o.KeepSeq
	if newSeq {
		p.Seq = 0
	}
	p.IPChecksum = new(uint16(0))
	frame, at := p.build()
	v.set(generatorVarIpOffset, uint32(at.ip))
	v.set(generatorVarTransportOffset, uint32(at.transport))
	v.set(generatorVarChecksumOffset, checksumOffset)
	v.set(generatorVarIpSum, sum(frame[at.ip:at.transport]))
	v.set(generatorVarTransportSum, p.sum(p.transport()))
	v.set(generatorVarTransport, uint8(kind))
	v.set(generatorVarFirstPort, o.firstPort())
	v.set(generatorVarPortCount, ports)
	v.set(generatorVarNewSeq, flag(newSeq))
	var head [templateWords]uint64
	kept := frame[:min(len(frame), 8*templateWords)]
	for i := range len(kept) / 8 {
		head[i] = binary.NativeEndian.Uint64(kept[8*i:])
	}
	v.set(generatorVarTemplate, head)
	v.set(generatorVarTemplateTail, binary.NativeEndian.Uint64(kept[len(kept)-8:]))
	v.set(generatorVarTemplateBytes, uint32(len(kept)))
	return frame
}

// kind tells which transport header the program has to keep right. A checksum that the template fixes, and a
// header that is cut or absent, are left as they are.
func (p Packet) kind() (kind int, checksumOffset uint32) {
	later := p.Fragment != nil && p.Fragment.Offset > 0
	switch {
	case later || p.Transport != nil || p.Checksum != nil:
		return transportNone, 0
	case p.Proto == TCP:
		return transportTCP, 16
	case p.Proto == UDP:
		return transportUDP, 6
	case p.Proto == ICMPv6:
		return transportICMPv6, 2
	}
	return transportNone, 0
}

func (o Options) firstPort() uint16 {
	if o.Ports == (Ports{}) {
		return 1024
	}
	return o.Ports.First
}

// portCount is 0 where the template's port is kept.
func (o Options) portCount(kind int) uint32 {
	switch {
	case o.KeepPort || kind != transportUDP && kind != transportTCP:
		return 0
	case o.Ports == Ports{}:
		return math.MaxUint16 - 1024 + 1
	}
	return uint32(o.Ports.Last) - uint32(o.Ports.First) + 1
}

func flag(on bool) uint8 {
	if on {
		return 1
	}
	return 0
}
