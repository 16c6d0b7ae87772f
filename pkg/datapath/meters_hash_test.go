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
)

//go:generate go tool bpf2go -target bpfel -output-suffix _test -type addr hashTest ../../bpf/tests/hash_test.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu

// hashObjects is what of the test program is loaded.
type hashObjects struct {
	HashAddresses *ebpf.Program `ebpf:"hash_addresses"`
	Addresses     *ebpf.Map     `ebpf:"addresses"`
	HashLimit     *ebpf.Map     `ebpf:"hash_limit"`
}

// What Go computes for an address is what the data path computes: `forget` and `check` rely on it.
func TestHashInTheKernel(t *testing.T) {
	testenv.RequireRoot(t)
	var k hashObjects
	must(t, loadHashTestObjects(&k, nil))
	for _, object := range []io.Closer{k.HashAddresses, k.Addresses, k.HashLimit} {
		t.Cleanup(func() { object.Close() })
	}
	r := rand.New(rand.NewPCG(testSeed(t), 1))
	for range 4 {
		var limit limiterLimit
		must(t, freshKey(&limit.Key))
		setMasks(&limit)
		must(t, k.HashLimit.Put(uint32(0), hashTestLimit(limit)))
		addrs := make([]netip.Addr, k.Addresses.MaxEntries())
		for i := range addrs {
			addrs[i] = randomAddr(r)
		}
		for i, got := range kernelHashes(t, &k, addrs) {
			if want := hashAddr(limit.Key, sourceOf(addrs[i]).Addr()); got != want {
				t.Fatalf("kernel hashes %s to %#x, Go to %#x", addrs[i], got, want)
			}
		}
	}
}

func kernelHashes(t *testing.T, k *hashObjects, addrs []netip.Addr) []uint64 {
	t.Helper()
	for i, a := range addrs {
		must(t, k.Addresses.Put(uint32(i), hashTestHashed{Addr: hashTestAddr(dataAddr(a))}))
	}
	verdict, err := k.HashAddresses.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil || verdict != xdpPass {
		t.Fatalf("run: %d, %v", verdict, err)
	}
	out := make([]uint64, len(addrs))
	for i := range addrs {
		var h hashTestHashed
		must(t, k.Addresses.Lookup(uint32(i), &h))
		out[i] = h.Hash
	}
	return out
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
			var key [limiterHashKeyHASH_KEYS]uint64
			for i := range key {
				key[i] = r.Uint64() | 1
			}
			a, b := hashAddr(key, pair[0]), hashAddr(key, pair[1])
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

// Sources in a row, as in one customer's network, spread over the buckets as random ones would.
func TestHashSpreads(t *testing.T) {
	const buckets, load = minRegionBuckets, 8
	for name, first := range map[string]netip.Addr{
		"IPv4": netip.MustParseAddr("10.0.0.0"), "IPv6": netip.MustParseAddr("2001:db8::"),
	} {
		for range 20 {
			var key [limiterHashKeyHASH_KEYS]uint64
			must(t, freshKey(&key))
			var count [buckets]int
			for i, a := 0, first; i < buckets*load; i++ {
				count[uint32(hashAddr(key, a))%buckets]++
				a = nextSource(a)
			}
			chi := 0.0
			for _, n := range count {
				d := float64(n - load)
				chi += d * d / load
			}
			// Chi-square with 4095 degrees of freedom: mean 4095, standard deviation 90.
			if chi > 4095+8*90 {
				t.Errorf("%s under %#x: chi-square %.0f", name, key, chi)
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
