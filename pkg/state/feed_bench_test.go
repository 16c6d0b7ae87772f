// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/feed"
	"github.com/synward/synward/pkg/internal/testenv"
)

// What is loaded, and how many lines of it another day's list has changed.
const (
	feedHosts, feedPrefixes = 1_000_000, 100_000
	feedChanged             = 10_000
)

// cost is what a load took: by the clock, and of CPU time, that of the kernel included.
type cost struct{ wall, cpu time.Duration }

func (c cost) report(b *testing.B, name string) {
	b.ReportMetric(c.wall.Seconds(), name+"-s")
	b.ReportMetric(c.cpu.Seconds(), name+"-cpu-s")
}

// BenchmarkFeedLoad loads a feed of random hosts and prefixes from a file and saves it, all that `feed load` does;
// then the same file again, then one with 10,000 other lines. The same goes into sets of nftables and of ipset, in a
// network namespace, by their own commands. On a machine that has other work to do only the CPU time tells.
func BenchmarkFeedLoad(b *testing.B) {
	dir := b.TempDir()
	lines := randomLines()
	first, changed := filepath.Join(dir, "first"), filepath.Join(dir, "changed")
	writeLines(b, first, lines)
	for n := range feedChanged / 2 { // one gone and one come are two lines
		lines[n*100] = randomHost(rand.New(rand.NewPCG(uint64(n), 9)))
	}
	writeLines(b, changed, lines)
	c := newCrowd(b, 1)
	loaded := c.loadFile(first)
	again, other := c.loadFile(first), c.loadFile(changed)
	nft, ipset := loadNft(b, c.pair.Client, first), loadIpset(b, c.pair.Client, first)
	loaded.report(b, "first")
	again.report(b, "again")
	other.report(b, "changed")
	nft.report(b, "nft")
	ipset.report(b, "ipset")
	b.ReportMetric(again.cpu.Seconds()/loaded.cpu.Seconds(), "again/first")
	b.ReportMetric(nft.cpu.Seconds()/loaded.cpu.Seconds(), "nft/first")
	b.ReportMetric(ipset.cpu.Seconds()/loaded.cpu.Seconds(), "ipset/first")
}

func randomHost(random *rand.Rand) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, random.Uint32()))), 32)
}

func randomLines() (out []netip.Prefix) {
	random := rand.New(rand.NewPCG(1, 2))
	for range feedHosts {
		out = append(out, randomHost(random))
	}
	for range feedPrefixes {
		out = append(out, netip.PrefixFrom(randomHost(random).Addr(), 17+random.IntN(15)).Masked())
	}
	return out
}

func writeLines(b *testing.B, path string, lines []netip.Prefix) {
	writeText(b, path, func(w *bufio.Writer) {
		for _, p := range lines {
			fmt.Fprintln(w, p)
		}
	})
}

func writeText(b *testing.B, path string, fill func(w *bufio.Writer)) {
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	w := bufio.NewWriter(f)
	fill(w)
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

func measure(b *testing.B, f func() error) cost {
	cpu := func() time.Duration {
		var sum int64
		for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
			var u unix.Rusage
			if err := unix.Getrusage(who, &u); err != nil {
				b.Fatal(err)
			}
			sum += u.Utime.Nano() + u.Stime.Nano()
		}
		return time.Duration(sum)
	}
	start, before := time.Now(), cpu()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	return cost{time.Since(start), cpu() - before}
}

// loadFile is what feed load does, but for the command line.
func (c *crowd) loadFile(path string) cost {
	return measure(c.b, func() error {
		set, err := readSet(path)
		if err != nil {
			return err
		}
		c.change(func(i *datapath.Instance) error {
			_, err := i.LoadFeed(datapath.FeedOptions{
				Feed: datapath.Feed{Name: "bench", List: datapath.Block, Scope: datapath.ScopeAll, Loaded: time.Now()}, Set: set,
			})
			return err
		})
		return nil
	})
}

func readSet(path string) (*feed.Set, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	contents, err := feed.Read(f, false)
	if err != nil {
		return nil, err
	}
	contents.Merge()
	return contents.Set, nil
}

// loadNft is handed what is merged already: with auto-merge it would do that work too.
func loadNft(b *testing.B, ns *testenv.Namespace, path string) cost {
	set, err := readSet(path)
	if err != nil {
		b.Fatal(err)
	}
	script := path + ".nft"
	writeText(b, script, func(w *bufio.Writer) {
		fmt.Fprintln(w, "table inet bench {\n set s {\n type ipv4_addr; flags interval; elements = {")
		for _, p := range set.Sorted() {
			fmt.Fprintf(w, "%s,\n", p)
		}
		fmt.Fprintln(w, "}\n }\n}")
	})
	return measure(b, func() error { return run(ns, testenv.Tool(b, "nft"), "-f", script) })
}

// loadIpset puts hosts into one set and prefixes into another, as its manual has it: hash:net is slower.
func loadIpset(b *testing.B, ns *testenv.Namespace, path string) cost {
	set, err := readSet(path)
	if err != nil {
		b.Fatal(err)
	}
	hosts := slices.DeleteFunc(slices.Clone(set.Sorted()), func(p netip.Prefix) bool { return !p.IsSingleIP() })
	wide := slices.DeleteFunc(slices.Clone(set.Sorted()), netip.Prefix.IsSingleIP)
	script := path + ".ipset"
	writeText(b, script, func(w *bufio.Writer) {
		fmt.Fprintln(w, "create hosts hash:ip maxelem 1048576\ncreate prefixes hash:net maxelem 262144")
		for _, p := range hosts {
			fmt.Fprintf(w, "add hosts %s\n", p.Addr())
		}
		for _, p := range wide {
			fmt.Fprintf(w, "add prefixes %s\n", p)
		}
	})
	return measure(b, func() error { return run(ns, testenv.Tool(b, "ipset"), "restore", "-file", script) })
}

func run(ns *testenv.Namespace, name string, args ...string) error {
	if out, err := ns.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.200s", name, err, out)
	}
	return nil
}
