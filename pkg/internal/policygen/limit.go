// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/synward/synward/pkg/policy"
)

// limit draws a limit that names some of the sets. It may make no sense where it is put.
func (w Words) limit(t *rapid.T, sets []policy.Set) policy.Limit {
	l := policy.Limit{
		Kind: rapid.SampledFrom(w.Kinds).Draw(t, "kind"),
		Per: rapid.SampledFrom([]policy.Per{
			policy.PerSource, policy.PerDestination, policy.PerSourceDestination, policy.PerService,
		}).Draw(t, "per"),
		Rate:          rate(t),
		Over:          rapid.SampledFrom(append(slices.Clone(w.Overs), policy.OverDrop, policy.OverDrop, "")).Draw(t, "over"),
		Strict:        rapid.Bool().Draw(t, "strict"),
		CountRejected: rapid.Bool().Draw(t, "count rejected"),
	}
	if rapid.Bool().Draw(t, "has burst") {
		l.Burst = rapid.Uint64Range(1, 6000).Draw(t, "burst")
	}
	if l.Kind == policy.KindConcurrent {
		l.Rate, l.Burst, l.Concurrent = policy.Rate{}, 0, rapid.Uint64Range(1, 1000).Draw(t, "concurrent")
	}
	if l.Per != policy.PerService && rapid.Bool().Draw(t, "has prefix") {
		l.Prefix = lengths(t)
	}
	if rapid.IntRange(0, 3).Draw(t, "has lists") == 0 {
		l.From, l.Except = Members(t, sets), Members(t, sets)
	}
	if w.Exempt && rapid.IntRange(0, 3).Draw(t, "is exempt") == 0 {
		l.Exempt = policy.ExemptVerified
	}
	if w.Bans && rapid.IntRange(0, 2).Draw(t, "bans") == 0 {
		l.Ban = Ban(t)
	}
	return l
}

func rate(t *rapid.T) policy.Rate {
	count := rapid.Uint64Range(1, 5000).Draw(t, "count")
	unit := rapid.SampledFrom([]time.Duration{policy.Day, time.Hour, time.Minute, time.Second, time.Millisecond}).Draw(t, "unit")
	return policy.Rate{Count: count, Period: unit * time.Duration(rapid.Int64Range(1, 100).Draw(t, "periods"))}
}

// Ban draws a ban.
func Ban(t *rapid.T) *policy.Ban {
	seconds := func(name string) time.Duration {
		return time.Duration(rapid.Int64Range(1, 200_000).Draw(t, name)) * time.Second
	}
	b := &policy.Ban{After: rapid.Uint64Range(1, 65535).Draw(t, "after"), Within: seconds("within"), For: seconds("for")}
	if rapid.Bool().Draw(t, "has growth") {
		b.Growth = float64(rapid.IntRange(100, 10000).Draw(t, "growth")) / 100
	}
	if rapid.Bool().Draw(t, "has max") {
		b.Max = b.For + seconds("max")
	}
	b.Scope = rapid.SampledFrom([]policy.BanScope{"", policy.BanGlobal, policy.BanService}).Draw(t, "scope")
	if rapid.Bool().Draw(t, "has prefix") {
		b.Prefix = lengths(t)
	}
	return b
}

func lengths(t *rapid.T) policy.PrefixLengths {
	return policy.PrefixLengths{IPv4: rapid.IntRange(1, 32).Draw(t, "ipv4"), IPv6: rapid.IntRange(1, 128).Draw(t, "ipv6")}
}
