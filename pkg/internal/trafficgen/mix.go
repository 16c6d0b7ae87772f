// SPDX-License-Identifier: Apache-2.0

package trafficgen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
)

// What the generator's tables hold.
const (
	maxRanges = 64
	maxSlots  = 1024
)

// Range is a set of source addresses in a Mix.
type Range struct {
	// Prefix holds the addresses. Its own address is the first one when Count is set, so 10.0.0.7/8 begins at
	// 10.0.0.7; else only its bits below Unit are kept.
	Prefix netip.Prefix
	// Count is how many addresses there are; 0 is all of the prefix.
	Count uint64
	// Unit is the prefix length that an address stands for: 64 in IPv6 takes one address of each /64. 0 is the
	// single address.
	Unit int
	// Random draws each address by chance (and so some twice) instead of one after the other.
	Random bool
	// Weight is how many of every sum-of-weights frames come from this range; 0 is 1.
	Weight int
}

// Mix is the sources of a flood, all of one family: at most 64 ranges with weights that add up to at most 1024.
// Frames of the ranges are interleaved evenly, and in every sum-of-weights frames the shares are exact.
type Mix []Range

// Sources is a Mix of the first count addresses from base, one after the other.
func Sources(base netip.Addr, count uint64) Mix {
	bits := 8
	if base.Is6() {
		bits = 32
	}
	return Mix{{Prefix: netip.PrefixFrom(base, bits), Count: count}}
}

// Anywhere is a Mix of random addresses of a prefix, as a spoofed flood has.
func Anywhere(prefix netip.Prefix) Mix { return Mix{{Prefix: prefix, Random: true}} }

// Schedule is a Mix made ready: which frame comes from where.
type Schedule struct {
	ip6    bool
	seed   uint64
	ranges []generatorRange
	slots  []generatorSlot
}

// NewSchedule checks a mix. The same seed gives the same frames.
func NewSchedule(mix Mix, seed uint64) (*Schedule, error) {
	if len(mix) == 0 || len(mix) > maxRanges {
		return nil, fmt.Errorf("mix has %d ranges, want 1 to %d", len(mix), maxRanges)
	}
	s := &Schedule{ip6: mix[0].Prefix.Addr().Is6(), seed: seed}
	total := 0
	for _, r := range mix {
		entry, err := r.entry()
		if err != nil {
			return nil, fmt.Errorf("mix: range %s: %w", r.Prefix, err)
		}
		if r.Prefix.Addr().Is6() != s.ip6 {
			return nil, errors.New("mix has both IPv4 and IPv6: send them by two calls")
		}
		s.ranges = append(s.ranges, entry)
		total += int(entry.PerRound)
	}
	if total > maxSlots {
		return nil, fmt.Errorf("weights of the mix add up to %d, more than %d", total, maxSlots)
	}
	s.deal(total)
	return s, nil
}

// entry is the range as the program reads it.
func (r Range) entry() (generatorRange, error) {
	addr := r.Prefix.Addr()
	if !r.Prefix.IsValid() || addr.Is4In6() {
		return generatorRange{}, errors.New("not a prefix")
	}
	unit := r.Unit
	if unit == 0 {
		unit = addr.BitLen()
	}
	if unit < r.Prefix.Bits() || unit > addr.BitLen() || r.Weight < 0 || r.Weight > maxSlots {
		return generatorRange{}, fmt.Errorf("unit %d or weight %d makes no sense", r.Unit, r.Weight)
	}
	out := generatorRange{Shift: uint8(addr.BitLen() - unit), PerRound: uint32(max(1, r.Weight))}
	if r.Random {
		out.Random = 1
	}
	out.BaseHi, out.BaseLo = halves(addr)
	all := uint64(math.MaxUint64)
	if width := unit - r.Prefix.Bits(); width < 64 {
		all = 1 << width
	}
	if out.Count = r.Count; out.Count == 0 {
		out.Count = all
		hi, lo := halves(r.Prefix.Masked().Addr())
		keepHi, keepLo := shiftLeft(math.MaxUint64, math.MaxUint64, int(out.Shift))
		out.BaseHi, out.BaseLo = hi|out.BaseHi&^keepHi, lo|out.BaseLo&^keepLo
	}
	last := out.at(out.Count-1, addr.Is6())
	if out.Count > all || !r.Prefix.Contains(last) || last.Less(out.at(0, addr.Is6())) {
		return generatorRange{}, fmt.Errorf("%d addresses from %s are more than it holds", out.Count, addr)
	}
	return out, nil
}

// deal gives every slot to a range so that each range's slots lie as evenly apart as they can: the one that is
// furthest behind its share is next.
func (s *Schedule) deal(total int) {
	behind := make([]int, len(s.ranges))
	dealt := make([]uint16, len(s.ranges))
	for range total {
		next := 0
		for i, r := range s.ranges {
			behind[i] += int(r.PerRound)
			if behind[i] > behind[next] {
				next = i
			}
		}
		behind[next] -= total
		s.slots = append(s.slots, generatorSlot{Range: uint16(next), Rank: dealt[next]})
		dealt[next]++
	}
}

// Source is the source address of the k-th frame, from 0.
func (s *Schedule) Source(k uint64) netip.Addr {
	count := uint64(len(s.slots))
	at := s.slots[k%count]
	r := s.ranges[at.Range]
	n := k/count*uint64(r.PerRound) + uint64(at.Rank)
	if r.Random != 0 {
		n = s.random(k)
	}
	return r.at(n%r.Count, s.ip6)
}

func (s *Schedule) random(k uint64) uint64 { return mix64(s.seed ^ mix64(k)) }

// at is the n-th address of the range.
func (r generatorRange) at(n uint64, ip6 bool) netip.Addr {
	hi, lo := shiftLeft(0, n, int(r.Shift))
	lo += r.BaseLo
	if lo < r.BaseLo {
		hi++
	}
	hi += r.BaseHi
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	if ip6 {
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte(b[12:]))
}

func halves(addr netip.Addr) (hi, lo uint64) {
	if addr.Is4() {
		b := addr.As4()
		return 0, uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := addr.As16()
	return binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])
}

func shiftLeft(hi, lo uint64, n int) (uint64, uint64) {
	if n >= 64 {
		return lo << (n - 64), 0
	}
	return hi<<n | lo>>(64-n), lo << n
}

// mix64 is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
// 2014) over a Weyl step.
func mix64(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
