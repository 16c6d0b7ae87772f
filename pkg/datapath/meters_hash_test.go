// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

//go:generate go tool bpf2go -target bpfel -output-suffix _test -type addr hashTest ../../bpf/tests/hash_test.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu

// hashObjects is what of the test program is loaded.
type hashObjects struct {
	HashPackets *ebpf.Program `ebpf:"hash_packets"`
	Packets     *ebpf.Map     `ebpf:"packets"`
	HashLimit   *ebpf.Map     `ebpf:"hash_limit"`
	Control     *ebpf.Map     `ebpf:".data.control"`
}

// What Go computes for an address is what the data path computes: `forget` and `check` rely on it.
func TestHashInTheKernel(t *testing.T) {
	testenv.RequireRoot(t)
	var k hashObjects
	must(t, loadHashTestObjects(&k, nil))
	for _, object := range []io.Closer{k.HashPackets, k.Packets, k.HashLimit, k.Control} {
		t.Cleanup(func() { object.Close() })
	}
	control, err := mapShared[sharedControl](k.Control)
	must(t, err)
	t.Cleanup(func() { control.close() })
	r := rand.New(rand.NewPCG(testSeed(t), 1))
	for _, prefix := range []policy.PrefixLengths{{IPv4: 32, IPv6: 64}, {IPv4: 24, IPv6: 48}, {IPv4: 1, IPv6: 1}, {IPv4: 32, IPv6: 128}} {
		for _, per := range []limiterLimitPer{limiterLimitPerPER_SOURCE, limiterLimitPerPER_DESTINATION, limiterLimitPerPER_SOURCE_DESTINATION} {
			limit := limiterLimit{Per: uint8(per)}
			limit.setMasks(prefix)
			control.value.Hash, limit.Seed = freshHash(t)
			must(t, k.HashLimit.Put(uint32(0), hashTestLimit(limit)))
			pairs := make([][2]netip.Addr, k.Packets.MaxEntries())
			for i := range pairs {
				pairs[i] = randomPair(r)
			}
			for i, got := range kernelHashes(t, &k, pairs) {
				if want := hashKey(&control.value.Hash, &limit, pairs[i][0], pairs[i][1]); got != want {
					t.Fatalf("kernel hashes %s per %d to %#x, Go to %#x", pairs[i], per, got, want)
				}
			}
		}
	}
}

// freshHash draws the secrets of a hash: multipliers and a seed.
func freshHash(t *testing.T) (odd hashOdd, seed uint64) {
	t.Helper()
	must(t, freshWords([]*uint64{&odd[0], &odd[1], &odd[2], &seed}))
	for n := range odd {
		odd[n] |= 1
	}
	return odd, seed
}

func kernelHashes(t *testing.T, k *hashObjects, pairs [][2]netip.Addr) []uint64 {
	t.Helper()
	for i, p := range pairs {
		must(t, k.Packets.Put(uint32(i), hashTestHashed{Src: hashTestAddr(dataAddr(p[0])), Dst: hashTestAddr(dataAddr(p[1]))}))
	}
	verdict, err := k.HashPackets.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil || verdict != xdpPass {
		t.Fatalf("run: %d, %v", verdict, err)
	}
	out := make([]uint64, len(pairs))
	for i := range pairs {
		var h hashTestHashed
		must(t, k.Packets.Lookup(uint32(i), &h))
		out[i] = h.Hash
	}
	return out
}

// randomPair is a source and a destination of one family.
func randomPair(r *rand.Rand) (pair [2]netip.Addr) {
	pair = [2]netip.Addr{randomAddr(r), randomAddr(r)}
	for pair[0].Is4() != pair[1].Is4() {
		pair[1] = randomAddr(r)
	}
	return pair
}

// randomAddr is of either family; some have words of all zeros or ones.
func randomAddr(r *rand.Rand) netip.Addr {
	var b [16]byte
	for word := range 4 {
		v := []uint32{0, ^uint32(0), r.Uint32(), r.Uint32(), r.Uint32()}[r.IntN(5)]
		binary.NativeEndian.PutUint32(b[4*word:], v)
	}
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	b[0] |= 0x20 // never an IPv4 address in IPv6
	return netip.AddrFrom16(b)
}

// pairs are two addresses whose difference an attacker chooses, by kind. The keys are drawn at
// random, so which addresses they are does not matter beyond that.
func pairs(r *rand.Rand) map[string][2]netip.Addr {
	out := map[string][2]netip.Addr{}
	base4 := netip.AddrFrom4([4]byte{198, 51, 100, byte(r.Uint32())})
	base6 := netip.MustParseAddr("2001:db8:5:6::")
	for bit := range 32 {
		out["IPv4 "+flipBit(netip.IPv4Unspecified(), bit).String()] = [2]netip.Addr{base4, flipBit(base4, bit)}
	}
	for bit := range 64 {
		out["IPv6 "+flipBit(netip.IPv6Unspecified(), bit).String()] = [2]netip.Addr{base6, flipBit(base6, bit)}
	}
	// The top bit of the first word, as a machine reads it, came back as two bits between the words when
	// there was one round there: bits of the second word that a sender of a /48 may choose.
	twice := flipBit(flipBit(flipBit(base6, 8*7), 8*11), 8*15)
	out["IPv6 top bit and what it became"] = [2]netip.Addr{base6, twice}
	out["IPv4 next"] = [2]netip.Addr{base4, base4.Next()}
	out["IPv4 zero and ones"] = [2]netip.Addr{netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255")}
	out["families"] = [2]netip.Addr{netip.MustParseAddr("0.0.0.1"), netip.MustParseAddr("1::")}
	return out
}

// Two sources that somebody chose without knowing the key meet in a bucket of the smallest region
// about as often as chance has it, and (nearly) never in bucket and tag.
func TestHashMeetsByChance(t *testing.T) {
	r := rand.New(rand.NewPCG(testSeed(t), 2))
	const keys, buckets = 10000, minRegionBuckets
	for name, pair := range pairs(r) {
		same, whole := 0, 0
		for range keys {
			odd := hashOdd{r.Uint64() | 1, r.Uint64() | 1, r.Uint64() | 1}
			seed := r.Uint64()
			a, b := hashAddr(&odd, seed, pair[0]), hashAddr(&odd, seed, pair[1])
			if uint32(a)%buckets == uint32(b)%buckets {
				same++
				if a&slotTag == b&slotTag {
					whole++
				}
			}
		}
		// Chance has 2.4; 25 has a probability below 1e-15.
		if same > 25 || whole > 0 {
			t.Errorf("%s: %d of %d keys share a bucket, %d of them the tag", name, same, keys, whole)
		}
	}
}

// A destination and a source that count together are one key of two: neither may be changed for the
// other, and what an attacker chooses of both makes no two keys meet more often than by chance.
func TestHashOfTwoMeetsByChance(t *testing.T) {
	r := rand.New(rand.NewPCG(testSeed(t), 8))
	const keys, buckets = 10000, minRegionBuckets
	limit := limiterLimit{Per: uint8(limiterLimitPerPER_SOURCE_DESTINATION)}
	limit.setMasks(policy.PrefixLengths{IPv4: 32, IPv6: 128})
	type both [2]netip.Addr
	for name, pair := range pairs(r) {
		if pair[0].Is4() != pair[1].Is4() {
			continue
		}
		a, b := pair[0], pair[1]
		for how, two := range map[string][2]both{
			"swapped": {{a, b}, {b, a}}, "source": {{a, a}, {b, a}}, "destination": {{a, a}, {a, b}}, "both": {{a, a}, {b, b}},
		} {
			same, whole := 0, 0
			for range keys {
				odd := hashOdd{r.Uint64() | 1, r.Uint64() | 1, r.Uint64() | 1}
				limit.Seed = r.Uint64()
				x, y := hashKey(&odd, &limit, two[0][0], two[0][1]), hashKey(&odd, &limit, two[1][0], two[1][1])
				if uint32(x)%buckets == uint32(y)%buckets {
					same++
					if x&slotTag == y&slotTag {
						whole++
					}
				}
			}
			// Chance has 2.4; 25 has a probability below 1e-15.
			if same > 25 || whole > 0 {
				t.Errorf("%s, %s: %d of %d keys share a bucket, %d of them the tag", name, how, same, keys, whole)
			}
		}
	}
}

// Sources in a row, as in one customer's network, spread over the buckets as random ones would.
func TestHashSpreads(t *testing.T) {
	const buckets, load = minRegionBuckets, 8
	for name, first := range map[string]netip.Addr{
		"IPv4": netip.MustParseAddr("10.0.0.0"), "IPv6": netip.MustParseAddr("2001:db8::"),
	} {
		for range 20 {
			odd, seed := freshHash(t)
			var count [buckets]int
			for i, a := 0, first; i < buckets*load; i++ {
				count[uint32(hashAddr(&odd, seed, a))%buckets]++
				a = nextSource(a)
			}
			chi := 0.0
			for _, n := range count {
				d := float64(n - load)
				chi += d * d / load
			}
			// Chi-square with 4095 degrees of freedom: mean 4095, standard deviation 90.
			if chi > 4095+8*90 {
				t.Errorf("%s under %#x: chi-square %.0f", name, odd, chi)
			}
		}
	}
}

func nextSource(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a.Next()
	}
	b := a.As16()
	binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(b[:])+1)
	return netip.AddrFrom16(b)
}
