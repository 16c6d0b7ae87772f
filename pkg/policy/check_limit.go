// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"
)

// scope is the protocols that a limit meets where it stands.
type scope struct {
	tcp, quic bool
}

func scopeOf(services ...Service) scope {
	var s scope
	for _, service := range services {
		for _, l := range service.Listen {
			s.tcp = s.tcp || l.Proto == TCP
			s.quic = s.quic || l.Proto == QUIC
		}
	}
	return s
}

// checkLimit finds what makes no sense in a limit. It makes sense if it does for one of the protocols
// that it meets, for a service may listen on several.
func checkLimit(l Limit, s scope) *flaw {
	for _, check := range []func(Limit, scope) *flaw{
		checkWords, checkPrefix, checkNumbers, checkKind, checkOver, checkExtras, checkBan,
	} {
		if f := check(l, s); f != nil {
			return f
		}
	}
	return nil
}

func checkWords(l Limit, _ scope) *flaw {
	switch {
	case !slices.Contains(kinds(), l.Kind):
		return flawf("", "a limit counts one of %s", list(kinds()))
	case !slices.Contains(pers(), l.Per):
		return flawf("per", "there is no per %q; %s", l.Per, oneOf(pers()))
	case !slices.Contains(overs(), l.Over):
		return flawf("over", "there is no over %q; %s", l.Over, oneOf(overs()))
	case l.Exempt != "" && l.Exempt != ExemptVerified:
		return flawf("exempt", "there is no exempt %q; use %s", l.Exempt, ExemptVerified)
	}
	return nil
}

func checkPrefix(l Limit, _ scope) *flaw {
	if l.Per != PerService {
		return checkLengths(l.Prefix).under("prefix")
	}
	if l.Prefix != (PrefixLengths{}) {
		return flawf("prefix", "per: service looks at no address; leave out prefix")
	}
	return nil
}

// checkKind refuses a kind that none of the protocols has.
func checkKind(l Limit, s scope) *flaw {
	switch {
	case l.Kind == KindNew && !s.tcp && !s.quic:
		return flawf("new", "there are no connections on udp alone; count packets or bytes_in")
	case l.Kind == KindConcurrent && !s.tcp:
		return flawf("concurrent", "only tcp connections can be counted, and there is no tcp here; use new, packets or bytes_in")
	}
	return nil
}

func checkOver(l Limit, s scope) *flaw {
	switch {
	case l.Over == OverReset && (l.Kind == KindPackets || l.Kind == KindBytesIn):
		return flawf("over", "reset answers a new connection; over %s use drop", l.Kind)
	case l.Over == OverChallenge && l.Kind != KindNew:
		return flawf("over", "challenge answers a new connection; over %s use drop", l.Kind)
	case (l.Over == OverReset || l.Over == OverChallenge) && !s.tcp:
		return flawf("over", "%s answers tcp, and there is no tcp here; use drop", l.Over)
	}
	return nil
}

func checkExtras(l Limit, s scope) *flaw {
	switch {
	case l.Strict && !l.Kind.metered():
		return flawf("strict", "concurrent is strict as it is; leave out strict")
	case l.Strict && l.Kind == KindBytesOut:
		return flawf("strict", "connections that are open go on over bytes_out, so it cannot be strict; leave out strict")
	case l.CountRejected && !l.Kind.metered():
		return flawf("count_rejected", "a refused connection is not there to be counted; leave out count_rejected")
	case l.CountRejected && l.Kind == KindBytesOut:
		return flawf("count_rejected", "to a refused connection nothing is sent; leave out count_rejected")
	case l.Exempt != "" && (l.Kind != KindNew || l.Per != PerService):
		return flawf("exempt", "exempt is for new connections per: service; leave it out, or name trusted sources in except")
	case l.Exempt != "" && !s.tcp:
		return flawf("exempt", "sources are verified by tcp, and there is no tcp here; leave out exempt")
	}
	return nil
}

// checkBan refuses bans on evidence that a third party can forge, and bans of nobody.
func checkBan(l Limit, s scope) *flaw {
	b := l.Ban
	if b == nil {
		return nil
	}
	switch {
	case !l.namesSource():
		return flawf("ban", "per: %s does not say whom to ban; count per source", l.Per)
	case l.Kind == KindPackets || l.Kind == KindBytesIn:
		return flawf("ban", "the source of %s can be forged, so nobody is banned for them; ban on new, concurrent or bytes_out",
			l.Kind)
	case !s.tcp:
		return flawf("ban", "only a tcp handshake proves a source, and there is no tcp here; leave out ban")
	case l.Over == OverObserve:
		return flawf("ban", "over: observe refuses nobody, so nobody is banned; use drop or leave out ban")
	}
	return checkBanNumbers(b).under("ban")
}

// maxStrikes is how many strikes a ban may wait for.
const (
	maxStrikes = 65535
	maxGrowth  = 100
)

func checkBanNumbers(b *Ban) *flaw {
	for _, d := range []struct {
		field  string
		length int64
	}{{"within", int64(b.Within)}, {"for", int64(b.For)}, {"max", int64(b.Max)}} {
		if d.length <= 0 || d.length%1e9 != 0 || d.length > int64(MaxHorizon) {
			return flawf(d.field, "%s is a whole number of seconds, 1s to %dd", d.field, MaxHorizon/Day)
		}
	}
	switch hundredths := b.Growth * 100; {
	case b.After < 1 || b.After > maxStrikes:
		return flawf("after", "after is a number of strikes, 1 to %d", maxStrikes)
	case !(b.Growth >= 1 && b.Growth <= maxGrowth) || math.Abs(hundredths-math.Round(hundredths)) > 1e-6:
		return flawf("growth", "growth is a factor of 1 to %d with at most two decimals, as in 2 or 1.5", maxGrowth)
	case b.Max < b.For:
		return flawf("max", "the longest ban, max, is shorter than the first, for; make it at least %s", formatDuration(b.For))
	case b.Scope != BanGlobal && b.Scope != BanService:
		return flawf("scope", "there is no scope %q; %s", b.Scope, oneOf(banScopes()))
	}
	return checkLengths(b.Prefix).under("prefix")
}

// checkNumbers refuses a limit that can never admit anything or that no meter can hold.
func checkNumbers(l Limit, s scope) *flaw {
	switch {
	case l.Kind == KindConcurrent:
		return checkConcurrent(l)
	case l.Concurrent != 0:
		return flawf("concurrent", "a limit counts one of %s", list(kinds()))
	case l.Rate.Count == 0 || l.Rate.Period <= 0:
		return flawf(string(l.Kind), "it would refuse everything; use at least 1 a period, or a block list")
	case l.Rate.Period%time.Millisecond != 0:
		return flawf(string(l.Kind), "the period is a whole number of milliseconds, not %v", l.Rate.Period)
	case l.Rate.Period > MaxHorizon:
		return flawf(string(l.Kind), "the period is too long; use at most %dd", MaxHorizon/Day)
	}
	if f := checkStrictBurst(l); f != nil {
		return f
	}
	if l.Kind.bytes() {
		return checkBytes(l)
	}
	return checkEvents(l)
}

func checkConcurrent(l Limit) *flaw {
	switch {
	case l.Concurrent == 0:
		return flawf("concurrent", "it would refuse everything; use at least 1, or a block list")
	case l.Concurrent > MaxBurst:
		return flawf("concurrent", "%d connections are too many to count; use at most %d", l.Concurrent, MaxBurst)
	case l.Burst != 0:
		return flawf("burst", "concurrent counts what is there now and has no burst; leave it out")
	case l.Rate != Rate{}:
		return flawf("", "a limit counts one of %s", list(kinds()))
	}
	return nil
}

func checkStrictBurst(l Limit) *flaw {
	if !l.Strict || l.Burst < max(l.Rate.Count, 2) {
		return nil
	}
	if l.Rate.Count == 1 {
		return flawf("burst", "strict admits 1 at a time here; leave out burst")
	}
	return flawf("burst", "a strict burst is below COUNT, or nothing would ever come back; use at most %s, or leave it out for half",
		l.formatCount(l.Rate.Count-1))
}

// checkEvents holds connections and packets against what a slot of the meters can hold.
func checkEvents(l Limit) *flaw {
	kind, refill := string(l.Kind), l.Refill()
	interval := uint64(refill.Interval())
	over, horizon := bits.Mul64(l.Burst, interval)
	switch {
	case uint64(refill.Period)/refill.Count < uint64(MinInterval):
		return flawf(kind, "the rate is above what a slot can hold; the highest is %d/s", int64(1e9/MinInterval))
	case l.Burst == 0:
		return flawf("burst", "it would refuse everything; use at least 1")
	case l.Burst > MaxBurst:
		return flawf("burst "+kind, "a burst of %d is too large; use at most burst: %d", l.Burst, MaxBurst)
	case over != 0 || horizon > uint64(MaxHorizon):
		return flawf("burst "+kind, "at %s a burst of %d comes back after more than %d days; make one of them smaller",
			refill, l.Burst, MaxHorizon/Day)
	}
	return nil
}

// The most that a limit of bytes may say: a terabit a second, a tebibyte at once.
const (
	maxBytesPerSecond = 125_000_000_000
	maxByteBurst      = 1 << 40
)

func checkBytes(l Limit) *flaw {
	kind, refill := string(l.Kind), l.Refill()
	switch {
	case float64(refill.Count)/refill.Period.Seconds() > maxBytesPerSecond:
		return flawf(kind, "the rate is above what can be counted; the highest is %s/s", FormatBytes(maxBytesPerSecond))
	case l.Burst < FullPacket:
		return flawf("burst "+kind, "a burst of %s never admits a full packet; use burst: %d or more", FormatBytes(l.Burst),
			FullPacket)
	case l.Burst > maxByteBurst:
		return flawf("burst "+kind, "a burst of %s is too large; use at most burst: %s", FormatBytes(l.Burst),
			FormatBytes(maxByteBurst))
	case float64(l.Burst)/float64(refill.Count)*float64(refill.Period) > float64(MaxHorizon):
		return flawf("burst "+kind, "at %s a burst of %s comes back after more than %d days; make one of them smaller",
			FormatByteRate(refill), FormatBytes(l.Burst), MaxHorizon/Day)
	}
	return nil
}

// formatCount writes a number of what the limit counts.
func (l Limit) formatCount(n uint64) string {
	if l.Kind.bytes() {
		return FormatBytes(n)
	}
	return fmt.Sprint(n)
}
