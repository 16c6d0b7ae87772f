// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// maxCapacityUnits keeps every TAT, and the horizon of its region, well inside half of the 40 bits.
const maxCapacityUnits = 1 << 36

// A limit's region of the meters holds this many new sources a second, one SYN each, as far as the
// table's size allows: about what one core can be sent. A smaller region stays in the cache.
const (
	saturationRate   = 4_000_000
	minRegionBuckets = 4096
	maxRegionBuckets = 65536
)

// aggregateShare: past saturation, with on_table_full pass, all that is let through together is this
// many times the limit of one source.
const aggregateShare = 100

// preciseTicks: a limit whose B*T is shorter than this many clock ticks is judged by the exact clock.
const preciseTicks = 100

// Bytes come many to a nanosecond, so what one costs is a fraction; unitBytes of them are what a unit is
// chosen by.
const (
	byteShift = 20
	unitBytes = 64
)

// maxHorizonNs is as far ahead as any TAT may be, 146 years: horizons are rounded up to powers of four.
const maxHorizonNs = 1 << 62

// maxDebtBursts is how many bursts a key of bytes_out may owe, as far as a slot can hold them: what was sent is owed
// whatever the burst, and yet nobody is to be refused for ever.
const maxDebtBursts = 64

// compiledLimit is a limit in the words of the data path, and what places it in the meters.
type compiledLimit struct {
	limiterLimit
	// buckets is how large a region it asks for; 0 where it needs none.
	buckets uint32
	horizon time.Duration
}

// compileLimit turns a rate and a burst into units of the meters. What decides where it lies (seed,
// region, id) is not set, and its verdict is that of enforce.
func compileLimit(l policy.Limit) (compiledLimit, error) {
	out := compiledLimit{limiterLimit: limiterLimit{
		Kind: uint8(kinds[l.Kind]), Per: uint8(pers[l.Per]), Over: uint32(overReasons[l.Kind]),
	}}
	switch {
	case l.Over == policy.OverObserve:
		out.Flags |= uint32(limiterLimitFlagLIMIT_OBSERVES)
		out.Over |= uint32(limiterVerdictVERDICT_OBSERVED)
	case proves(l):
		out.Over |= uint32(limiterVerdictVERDICT_CHALLENGED | limiterVerdictVERDICT_PROOF)
	case l.Over == policy.OverChallenge:
		out.Over |= uint32(limiterVerdictVERDICT_CHALLENGED)
	default:
		out.Over |= uint32(limiterVerdictVERDICT_REFUSED)
	}
	out.Over |= uint32(overs[l.Over]) << uint32(limiterVerdictVERDICT_ACTION_SHIFT)
	if l.CountRejected {
		out.Flags |= uint32(limiterLimitFlagLIMIT_COUNT_REJECTED)
	}
	if l.Exempt != "" {
		out.Flags |= uint32(limiterLimitFlagLIMIT_EXEMPTS)
	}
	out.setMasks(l.Prefix)
	if l.Kind == policy.KindConcurrent {
		out.Capacity = l.Concurrent
		return out, nil
	}
	var err error
	if l.Per == policy.PerService {
		err = out.inNanoseconds(l)
	} else {
		err = out.inUnits(l)
	}
	if err != nil {
		return compiledLimit{}, err
	}
	t := interval(l)
	out.AggregateCostNs = max(t/aggregateShare, 1)
	out.AggregateCapacityNs = uint64(out.horizon)
	return out, nil
}

// interval is what one connection, packet or full packet of bytes takes to come back, in nanoseconds.
func interval(l policy.Limit) uint64 {
	rate := l.Refill()
	if countsBytes(l.Kind) {
		return mulDiv(policy.FullPacket, uint64(rate.Period), rate.Count)
	}
	return ceilDiv(uint64(rate.Period), rate.Count)
}

// inNanoseconds is for a limit with a TAT of its own.
func (c *compiledLimit) inNanoseconds(l policy.Limit) error {
	rate := l.Refill()
	if countsBytes(l.Kind) {
		c.CostShift = byteShift
	}
	c.Stale = math.MaxInt64 / 2 // the most that one buffer may cost
	for {
		err := c.rate(l, uint64(rate.Period), rate.Count, 0, math.MaxInt64/2)
		// A buffer of largestBytes is not to overflow the product.
		if c.CostShift == 0 || err == nil && c.Cost < 1<<43 {
			c.owe(l, maxDebtBursts)
			return err
		}
		c.CostShift--
	}
}

// The largest buffer that GRO makes, in packets and bytes (BIG TCP).
const (
	largestPackets = 512
	largestBytes   = 1 << 20
)

// largest is what the largest buffer costs, in units.
func (c *compiledLimit) largest() uint64 {
	switch limiterLimitKind(c.Kind) {
	case limiterLimitKindLIMIT_PACKETS:
		return largestPackets * c.Cost
	case limiterLimitKindLIMIT_BYTES_IN, limiterLimitKindLIMIT_BYTES_OUT:
		return c.Cost>>c.CostShift*largestBytes + c.Cost&(1<<c.CostShift-1)*largestBytes>>c.CostShift
	}
	return c.Cost
}

// inUnits finds the unit: the largest power of two of nanoseconds that is at most T/1024 (at least 1).
// T is rounded up, and one unit more, for a clock that is cut to units may stand up to one unit before
// the true time; both cost at most 0.2 % of the rate (1.2 % where one unit is a nanosecond, or a burst
// is so large that it needs a coarser one). ErrInvalid where a slot cannot hold it.
func (c *compiledLimit) inUnits(l policy.Limit) error {
	rate := l.Refill()
	base := ceilDiv(uint64(rate.Period), rate.Count)
	if countsBytes(l.Kind) {
		c.CostShift = byteShift
		base = mulDiv(unitBytes, uint64(rate.Period), rate.Count)
	}
	if err := c.findUnit(l, base); err != nil {
		return err
	}
	// A TAT may be as far ahead as a burst takes, or one buffer that is larger than that.
	c.Debt = min(c.Debt, maxHorizonNs>>c.UnitShift)
	farthest := min(max(c.Capacity, c.Debt, c.largest()), maxHorizonNs>>c.UnitShift) << c.UnitShift
	// Another CPU may be a tick, or a unit, behind.
	c.Stale = max((horizonCeiling(farthest)+uint64(time.Second))>>c.UnitShift, farthest>>c.UnitShift+1)
	c.buckets = regionBuckets(interval(l))
	return nil
}

// findUnit sets cost, capacity, unit and debt. The debt takes room in a slot, so the unit is coarser for it, and where
// that does not do it is a smaller one.
func (c *compiledLimit) findUnit(l policy.Limit, base uint64) error {
	bursts, fewest := uint64(1), uint64(128)
	if l.Kind == policy.KindBytesOut {
		bursts, fewest = maxDebtBursts, 1 // fractions are rounded by chance, so a unit may be as coarse as 64 bytes
	}
	for ; ; bursts /= 2 {
		for shift := max(bits.Len64(base/1024), 1) - 1; ; shift++ {
			if c.rate(l, uint64(l.Refill().Period), l.Refill().Count, shift, maxCapacityUnits/bursts) == nil {
				c.owe(l, bursts)
				return nil
			}
			if base>>(shift+1) < fewest {
				break
			}
		}
		if bursts == 1 {
			return fail(ErrInvalid, "burst %d at %s is more than a slot can hold; use a smaller burst, or a shorter period", l.Burst, l.Rate)
		}
	}
}

// owe sets what may be owed for what was sent: that many bursts, and never less than one buffer.
func (c *compiledLimit) owe(l policy.Limit, bursts uint64) {
	if l.Kind == policy.KindBytesOut {
		c.Debt = max(min(c.Capacity, math.MaxInt64/2/bursts)*bursts, c.largest())
	}
}

func countsBytes(k policy.Kind) bool { return k == policy.KindBytesIn || k == policy.KindBytesOut }

// rate sets cost and capacity in units of 2^shift nanoseconds.
func (c *compiledLimit) rate(l policy.Limit, period, count uint64, shift int, most uint64) error {
	high, low := bits.Mul64(period, 1<<c.CostShift)
	divisor := count << shift
	if high >= divisor || divisor>>shift != count {
		return ErrInvalid
	}
	cost, rest := bits.Div64(high, low, divisor)
	if rest != 0 {
		cost++
	}
	if shift > 0 && c.CostShift == 0 {
		cost++
	}
	high, low = bits.Mul64(cost, l.Burst)
	capacity := low>>c.CostShift | high<<(64-c.CostShift)
	if high>>c.CostShift != 0 || capacity > most || capacity == 0 {
		return ErrInvalid
	}
	c.Cost, c.Capacity, c.UnitShift = cost, capacity, uint8(shift)
	c.horizon = time.Duration(min(capacity<<shift, math.MaxInt64))
	return nil
}

// horizonCeiling rounds a horizon up to a power of four: limits of one region share it.
func horizonCeiling(horizonNs uint64) uint64 {
	n := bits.Len64(max(horizonNs, 1) - 1)
	return 1 << (n + n&1)
}

// regionBuckets is how large a region a limit with this T asks for, in buckets: a power of two.
func regionBuckets(intervalNs uint64) uint32 {
	slots := intervalNs / (uint64(time.Second) / saturationRate)
	buckets := min(max(slots/uint64(limiterAbiMETER_WAYS), minRegionBuckets), maxRegionBuckets)
	return uint32(1) << bits.Len64(buckets-1)
}

func ceilDiv(a, b uint64) uint64 { return (a + b - 1) / b }

// mulDiv is a*b/c, rounded up; it saturates.
func mulDiv(a, b, c uint64) uint64 {
	high, low := bits.Mul64(a, b)
	if high >= c {
		return math.MaxUint64
	}
	q, rest := bits.Div64(high, low, c)
	if rest != 0 {
		q++
	}
	return q
}

// setMasks writes prefix lengths as the data path applies them, in network byte order.
func (l *limiterLimit) setMasks(p policy.PrefixLengths) {
	l.Mask4, l.Mask6 = masks(p)
}

func masks(p policy.PrefixLengths) (mask4 uint32, mask6 [4]uint32) {
	mask4 = networkWord(netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), p.IPv4).Masked().Addr(), 0)
	ones := netip.AddrFrom16([16]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255})
	for w := range mask6 {
		mask6[w] = networkWord(netip.PrefixFrom(ones, p.IPv6).Masked().Addr(), w)
	}
	return mask4, mask6
}

// networkWord is the w-th 32-bit word of an address as it lies in memory.
func networkWord(a netip.Addr, w int) uint32 {
	return binary.NativeEndian.Uint32(a.AsSlice()[4*w:])
}
