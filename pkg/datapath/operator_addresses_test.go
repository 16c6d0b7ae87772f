// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/synward/synward/pkg/internal/testenv"
)

func TestOwnAddressesHoldInterfacesGatewaysAndResolvers(t *testing.T) {
	p := testenv.NewPair(t, testenv.PairOptions{})
	for _, line := range []string{
		"ip addr add 10.78.0.5 peer 10.78.0.6/32 dev srv0",
		"ip route add default via 10.77.0.2 dev srv0",
		"ip -6 route add default via fd77::2 dev srv0 metric 5",
		"ip -6 route add default via fd77::4 dev srv0 onlink metric 9",
		"ip route add default table 100 nexthop via 10.77.0.3 dev srv0 onlink nexthop via 10.77.0.4 dev srv0 onlink",
		"ip route add default metric 7 via inet6 fd77::3 dev srv0 onlink",
		"ip route add 192.0.2.0/24 via 10.77.0.99 dev srv0 onlink",
		"ip -6 route add 2001:db8::/32 via fd77::99 dev srv0 onlink",
	} {
		words := strings.Fields(line)
		if out, err := p.Server.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	var own []Protected
	if err := p.Server.Do(func() (err error) {
		own, err = OwnAddresses()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"127.0.0.0/8", "::1/128", "10.77.0.1/32", "fd77::1/128", "10.78.0.5/32", "10.78.0.6/32",
		"10.77.0.2/32", "fd77::2/128", "fd77::4/128", "10.77.0.3/32", "10.77.0.4/32", "fd77::3/128",
	}
	for _, a := range resolvers() {
		want = append(want, netip.PrefixFrom(a, a.BitLen()).String())
	}
	for _, prefix := range want {
		same := func(o Protected) bool { return o.Prefix == netip.MustParsePrefix(prefix) }
		if !slices.ContainsFunc(own, same) {
			t.Errorf("%s is missing in %v", prefix, own)
		}
	}
	for i, prefix := range own {
		if strings.Contains(prefix.String(), "99/") || !prefix.IsSingleIP() && !prefix.Addr().IsLoopback() {
			t.Errorf("%s is no address of the host, a gateway or a resolver", prefix)
		}
		if i > 0 && own[i-1].Addr().Compare(prefix.Addr()) > 0 {
			t.Errorf("%s comes before %s", own[i-1], prefix)
		}
	}
}

func TestOwnAddressesReadResolvConf(t *testing.T) {
	got := parseResolvers([]byte("# nameserver 192.0.2.99\nsearch example.com\nnameserver 192.0.2.53\n" +
		"nameserver\tfe80::1%eth0 # the router\nnameserver ::ffff:192.0.2.54\nnameserver nonsense\nnameserver\n" +
		"options edns0\nnameserver 2001:db8::53"))
	want := []netip.Addr{
		netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("fe80::1"),
		netip.MustParseAddr("192.0.2.54"), netip.MustParseAddr("2001:db8::53"),
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
