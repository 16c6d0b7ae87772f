// SPDX-License-Identifier: Apache-2.0

package policy

import "time"

// Every rate is judged by the generic cell rate algorithm with an interval of T and a burst of B:
// level = max(TAT - now, 0); admit if level + T <= B*T; then TAT = now + level + T.
//
// How much that admits. Let n events be admitted at t1 <= ... <= tn. Each adds T to a TAT that was at
// least t1 when the first came, so before the last one the level is at least t1 + (n-1)*T - tn, and it
// was admitted: t1 + n*T - tn <= B*T. Hence n <= B + (tn - t1)/T: in any window of length W, its two
// ends included, at most B + floor(W/T).
//
// Strict: at most COUNT in any window of a PERIOD. With B below COUNT and T = PERIOD/(COUNT - B),
// rounded up, floor(PERIOD/T) <= COUNT - B, so B + floor(PERIOD/T) <= COUNT. The window may even be
// nearly a T longer, so a clock that is coarse by less than T breaks nothing.
// A COUNT of 1 leaves no burst below it: B = 1, and any T above PERIOD keeps two from meeting in one
// window of it. T is a fiftieth longer, more than the data path rounds its clock: a tick is at most
// B*T/100, a unit of a slot at most T/128.

// metered says whether a kind is counted by rate and burst.
func (k Kind) metered() bool { return k != KindConcurrent }

// bytes says whether a kind counts bytes.
func (k Kind) bytes() bool { return k == KindBytesIn || k == KindBytesOut }

// Refill is the rate at which a used burst comes back: Rate, or less where the limit is strict. With
// Burst it is all that a meter needs: in any window W the limit admits at most Burst + W*Refill. The
// zero Rate for KindConcurrent.
func (l Limit) Refill() Rate {
	switch {
	case !l.Kind.metered():
		return Rate{}
	case !l.Strict:
		return l.Rate
	case l.Rate.Count == 1:
		return Rate{Count: 1, Period: l.Rate.Period + (l.Rate.Period+49)/50}
	case l.Burst >= l.Rate.Count:
		return Rate{}
	}
	return Rate{Count: l.Rate.Count - l.Burst, Period: l.Rate.Period}
}

// Interval is T, the time in which one connection or packet of a used burst comes back, rounded up. It is
// 0 for KindConcurrent and for bytes, of which many come back in a nanosecond: use Refill.
func (l Limit) Interval() time.Duration {
	if l.Kind.bytes() {
		return 0
	}
	return l.Refill().Interval()
}

// defaultBurst is the burst of a limit that does not say: COUNT, or half of it where it is strict.
func (l Limit) defaultBurst() uint64 {
	if l.Strict {
		return max(l.Rate.Count/2, 1)
	}
	return l.Rate.Count
}

// SourcePrefix is how much of a source's address makes one count; zero if the limit does not look at it.
func (l Limit) SourcePrefix() PrefixLengths {
	if l.Per == PerSource || l.Per == PerSourceDestination {
		return l.Prefix
	}
	return PrefixLengths{}
}

// DestinationPrefix is how much of a destination's address makes one count; zero if the limit does not
// look at it.
func (l Limit) DestinationPrefix() PrefixLengths {
	switch l.Per {
	case PerDestination:
		return l.Prefix
	case PerSourceDestination:
		return wholeAddress()
	}
	return PrefixLengths{}
}

func wholeAddress() PrefixLengths { return PrefixLengths{IPv4: 32, IPv6: 128} }

// namesSource says whether a limit counts each source on its own.
func (l Limit) namesSource() bool { return l.Per == PerSource || l.Per == PerSourceDestination }
