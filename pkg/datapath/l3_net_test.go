// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bufio"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
)

// innerIf is the tunnel device at either end.
const innerIf = "l3"

// tunnel is one kind of device without link headers, and how both ends of one are made.
type tunnel struct {
	name string
	// modules are what a kernel that does not hold the device loads for it.
	modules []string
	// lines are commands of ip(8), run at both ends. {local} and {remote} are the outer addresses of
	// IPv4, {local6} and {remote6} of IPv6, {dev} is the interface below, {in} {in2} {in6} {in62} are the
	// other end's inner addresses.
	lines []string
	// join is for what ip cannot do.
	join     func(b *bench) error
	families []string
	// own is the most packets that the device counts as received and keeps to itself.
	own uint64
}

var bothInner = []string{"IPv4", "IPv6"}

func tunnels() []tunnel {
	const up = "link set " + innerIf + " up"
	add := func(rest string) []string { return []string{"link add " + innerIf + " type " + rest, up} }
	return []tunnel{
		{name: "tun", modules: []string{"tun"}, join: joinTun, families: bothInner},
		{name: "ipip", modules: []string{"ipip"}, lines: add("ipip local {local} remote {remote}"), families: []string{"IPv4"}},
		{name: "sit", modules: []string{"sit"}, lines: add("sit local {local} remote {remote} mode any"), families: bothInner},
		{name: "gre", modules: []string{"ip_gre"}, lines: add("gre local {local} remote {remote}"), families: bothInner},
		{name: "gre with key and checksum", modules: []string{"ip_gre"}, lines: add("gre local {local} remote {remote} key 7 csum"), families: bothInner},
		{
			name: "gre, multipoint", modules: []string{"ip_gre"}, families: bothInner,
			lines: append(add("gre local {local} key 7"),
				"neigh replace {in} lladdr {remote} dev l3 nud permanent", "neigh replace {in2} lladdr {remote} dev l3 nud permanent",
				"neigh replace {in6} lladdr {remote} dev l3 nud permanent", "neigh replace {in62} lladdr {remote} dev l3 nud permanent"),
		},
		{name: "ip6tnl", modules: []string{"ip6_tunnel"}, lines: add("ip6tnl local {local6} remote {remote6} mode any"), families: bothInner},
		{name: "ip6gre", modules: []string{"ip6_gre"}, lines: add("ip6gre local {local6} remote {remote6}"), families: bothInner},
		{name: "wireguard", modules: []string{"wireguard"}, lines: add("wireguard")[:1], join: joinWireguard, families: bothInner, own: 2},
		{
			name: "xfrm", modules: []string{"xfrm_interface", "xfrm_user", "esp4", "authenc", "echainiv", "drbg"}, families: bothInner,
			lines: append(add("xfrm dev {dev} if_id 5"), ipsec("if_id 5", "if_id 5")...),
		},
		{
			name: "vti", modules: []string{"ip_vti", "xfrm_user", "esp4", "authenc", "echainiv", "drbg"}, families: []string{"IPv4"},
			lines: append(add("vti local {local} remote {remote} key 5"), ipsec("", "mark 5")...),
		},
	}
}

// ipsec is a pair of security associations between the ends and the policies that send all of an
// interface through them.
func ipsec(ofState, ofPolicy string) []string {
	state := func(from, to string, spi int) string {
		return fmt.Sprintf("xfrm state add src %s dst %s proto esp spi %d reqid 9 mode tunnel flag af-unspec %s "+
			"auth hmac(sha256) 0x%064x enc cbc(aes) 0x%032x", from, to, spi, ofState, spi, spi)
	}
	// 10.77.0.1 is the server.
	lines := []string{state("10.77.0.1", "10.77.0.2", 1001), state("10.77.0.2", "10.77.0.1", 1002)}
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		for dir, ends := range map[string]string{"out": "src {local} dst {remote}", "in": "src {remote} dst {local}"} {
			lines = append(lines, fmt.Sprintf("xfrm policy add src %s dst %s dir %s %s tmpl %s proto esp reqid 9 mode tunnel",
				all, all, dir, ofPolicy, ends))
		}
	}
	return lines
}

// innerFamilies are the addresses inside a tunnel.
func innerFamilies() map[string]family {
	return map[string]family{
		"IPv4": {netip.MustParseAddr("10.88.0.1"), netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("10.88.0.3")},
		"IPv6": {netip.MustParseAddr("fd88::1"), netip.MustParseAddr("fd88::2"), netip.MustParseAddr("fd88:0:0:1::3")},
	}
}

// inner is an address with the length of the network inside.
func inner(addr netip.Addr) netip.Prefix {
	if addr.Is4() {
		return netip.PrefixFrom(addr, 24)
	}
	return netip.PrefixFrom(addr, 32)
}

// newTunnelBench is a bench whose server takes connections through a tunnel, to which attach then goes.
func newTunnelBench(t *testing.T, kind tunnel) *bench {
	t.Helper()
	b := newBench(t, testenv.PairOptions{})
	server := []string{"{local}", "10.77.0.1", "{remote}", "10.77.0.2", "{local6}", "fd77::1", "{remote6}", "fd77::2",
		"{dev}", b.ServerIf, "{in}", "10.88.0.2", "{in2}", "10.88.0.3", "{in6}", "fd88::2", "{in62}", "fd88:0:0:1::3"}
	client := []string{"{local}", "10.77.0.2", "{remote}", "10.77.0.1", "{local6}", "fd77::2", "{remote6}", "fd77::1",
		"{dev}", b.ClientIf, "{in}", "10.88.0.1", "{in2}", "10.88.0.1", "{in6}", "fd88::1", "{in62}", "fd88::1"}
	err := errors.Join(runIP(b.Server, kind.lines, server), runIP(b.Client, kind.lines, client))
	if err == nil && kind.join != nil {
		err = kind.join(b)
	}
	if err != nil {
		skipWithout(t, err, kind.modules...)
	}
	for _, f := range innerFamilies() {
		err = errors.Join(err, b.Server.AddAddrs(innerIf, inner(f.server)), b.Client.AddAddrs(innerIf, inner(f.client), inner(f.beside)))
	}
	if err != nil {
		t.Fatal(err)
	}
	b.ServerIf, b.ClientIf = innerIf, innerIf
	return b
}

// runIP runs commands of ip(8) in a namespace, with pairs of words replaced.
func runIP(ns *testenv.Namespace, lines, pairs []string) error {
	for _, line := range lines {
		line = strings.NewReplacer(pairs...).Replace(line)
		out, err := ns.Command("ip", strings.Fields(line)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// skipWithout ends the test: by a skip that names the modules where this kernel has none of them, and by
// a failure where it has them, or where it was something else that it refused.
func skipWithout(t *testing.T, err error, modules ...string) {
	t.Helper()
	unknown := errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOENT) ||
		errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
	for _, words := range []string{"Unknown device type", "not supported", "No such file or directory", "initialize cryptographic"} {
		unknown = unknown || strings.Contains(err.Error(), words)
	}
	if !unknown {
		t.Fatal(err)
	}
	missing := slices.DeleteFunc(slices.Clone(modules), hasModule)
	if len(missing) == 0 {
		t.Fatalf("this kernel has the modules %v: %v", modules, err)
	}
	t.Skipf("this kernel lacks %s: %v", strings.Join(missing, ", "), err)
}

// hasModule tells whether the running kernel holds a module or can load it.
func hasModule(name string) bool {
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return false
	}
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		f, err := os.Open(filepath.Join("/lib/modules", unix.ByteSliceToString(uts.Release[:]), list))
		if err != nil {
			continue
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			path, _, _ := strings.Cut(lines.Text(), ":")
			file, _, _ := strings.Cut(filepath.Base(path), ".")
			if strings.ReplaceAll(file, "-", "_") == name {
				return true
			}
		}
	}
	return false
}

// joinTun makes a tun device at each end and carries packets between them until cleanup.
func joinTun(b *bench) error {
	var ends [2]*os.File
	for n, ns := range []*testenv.Namespace{b.Server, b.Client} {
		err := ns.Do(func() (err error) {
			ends[n], err = openTun()
			return err
		})
		if err != nil {
			return err
		}
		b.t.Cleanup(func() { _ = ends[n].Close() })
		if err := ns.LinkUp(innerIf); err != nil {
			return err
		}
	}
	go carry(ends[0], ends[1])
	go carry(ends[1], ends[0])
	return nil
}

func openTun() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open tun: %w", err)
	}
	request, err := unix.NewIfreq(innerIf)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make tun: %w", err)
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

// carry ends when either device is closed. Each read and each write is one packet.
func carry(from, to *os.File) {
	packet := make([]byte, 65536)
	for {
		n, err := from.Read(packet)
		if err != nil {
			return
		}
		if _, err := to.Write(packet[:n]); err != nil {
			return
		}
	}
}

// Commands and attributes of WireGuard's netlink (linux/wireguard.h).
const (
	wgSetDevice                                                            = 1
	wgIfname, wgPrivateKey, wgListenPort, wgPeers                          = 2, 3, 6, 8
	wgPeerPublicKey, wgPeerEndpoint, wgPeerAllowed                         = 1, 4, 9
	wgAllowedFamily, wgAllowedAddr, wgAllowedBits, wgPort, nestedAttribute = 1, 2, 3, 51820, 0x8000
)

// genlHeader is command, version and two bytes that must be zero.
type genlHeader [nl.SizeofGenlmsg]byte

func (h genlHeader) Len() int          { return len(h) }
func (h genlHeader) Serialize() []byte { return h[:] }

// joinWireguard gives two devices keys and makes each the other's peer for all addresses.
func joinWireguard(b *bench) error {
	server, err := ecdh.X25519().GenerateKey(rand.Reader)
	client, clientErr := ecdh.X25519().GenerateKey(rand.Reader)
	if err := errors.Join(err, clientErr); err != nil {
		return err
	}
	return errors.Join(setWireguard(b.Server, server, client.PublicKey(), b.ClientIP4),
		setWireguard(b.Client, client, server.PublicKey(), b.ServerIP4))
}

func setWireguard(ns *testenv.Namespace, own *ecdh.PrivateKey, peer *ecdh.PublicKey, at netip.Addr) error {
	endpoint := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	endpoint = append(binary.BigEndian.AppendUint16(endpoint, wgPort), at.AsSlice()...)
	nested := func(in *nl.RtAttr, kind int) *nl.RtAttr { return in.AddRtAttr(kind|nestedAttribute, nil) }
	peers := nl.NewRtAttr(wgPeers|nestedAttribute, nil)
	one := nested(peers, 0)
	one.AddRtAttr(wgPeerPublicKey, peer.Bytes())
	one.AddRtAttr(wgPeerEndpoint, append(endpoint, make([]byte, 8)...))
	allowed := nested(one, wgPeerAllowed)
	for family, size := range map[uint16]int{unix.AF_INET: 4, unix.AF_INET6: 16} {
		all := nested(allowed, 0)
		all.AddRtAttr(wgAllowedFamily, nl.Uint16Attr(family))
		all.AddRtAttr(wgAllowedAddr, make([]byte, size))
		all.AddRtAttr(wgAllowedBits, nl.Uint8Attr(0))
	}
	err := ns.Do(func() error {
		wg, err := netlink.GenlFamilyGet("wireguard")
		if err != nil {
			return err
		}
		request := nl.NewNetlinkRequest(int(wg.ID), unix.NLM_F_ACK)
		request.AddData(genlHeader{wgSetDevice, 1})
		request.AddData(nl.NewRtAttr(wgIfname, nl.ZeroTerminated(innerIf)))
		request.AddData(nl.NewRtAttr(wgPrivateKey, own.Bytes()))
		request.AddData(nl.NewRtAttr(wgListenPort, nl.Uint16Attr(wgPort)))
		request.AddData(peers)
		_, err = request.Execute(unix.NETLINK_GENERIC, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("set keys: %w", err)
	}
	return ns.LinkUp(innerIf)
}

// mustLimitInside makes six connections from each family's client, and one from a neighbour that is then
// blocked: under a limit of two exactly two are accepted, and every packet is counted as what it is.
func (b *bench) mustLimitInside(families ...string) {
	b.t.Helper()
	for _, name := range families {
		f := innerFamilies()[name]
		server := b.server(f.server, testenv.ServerOptions{})
		got, err := testenv.Hammer(b.Client, testenv.HammerOptions{
			Sources: []netip.Addr{f.client}, Dst: server.Addr(), Count: 6, Rate: 100, Timeout: 900 * time.Millisecond,
		})
		if err != nil || got.Accepted != 2 || got.NoAnswer != 4 {
			b.t.Errorf("%s: %+v, %v; want 2 of 6 accepted and no answer to 4", name, got, err)
		}
		b.block(datapath.Entry{Prefix: netip.PrefixFrom(f.beside, f.beside.BitLen())})
		b.mustNotConnect(server, f.beside)
		if server.Count(f.client) != 2 || server.Total() != 2 {
			b.t.Errorf("%s: server accepted %v, want 2", name, server.Counts())
		}
	}
	var got tally
	b.change(func(i *datapath.Instance) error { got = tallyOf(b.t, i); return nil })
	n := uint64(len(families))
	// A busy machine may repeat a SYN that gets no answer.
	if got["under_limit pass"] != 2*n || got["over_new drop"] < 4*n || got["blocked drop"] < n {
		b.t.Errorf("counted %v, want %d under the limit, %d over it and %d blocked", got, 2*n, 4*n, n)
	}
	for end := range got {
		if !slices.Contains([]string{"under_limit pass", "over_new drop", "blocked drop", "established pass"}, end) {
			b.t.Errorf("counted %d as %s", got[end], end)
		}
	}
	b.t.Logf("counted %v; status: %+v", got, b.interfaces())
}

// A device without link headers is refused to XDP and held by TC, whatever it puts before the IP header.
func TestL3Device(t *testing.T) {
	for _, kind := range tunnels() {
		t.Run(kind.name, func(t *testing.T) {
			b := newTunnelBench(t, kind)
			for _, mode := range []datapath.Mode{datapath.ModeNative, datapath.ModeGeneric} {
				_, err := b.tryAttach(mode, nil)
				if !errors.Is(err, datapath.ErrInvalid) || !strings.Contains(err.Error(), "no link header") ||
					!strings.Contains(err.Error(), "--mode tc") {
					t.Errorf("attach (%s): %v; want a refusal that says what to do", mode, err)
				}
			}
			got := b.attach(datapath.ModeAuto, rate(1, time.Hour, 2)).Interface
			if got.Mode != datapath.ModeTC || !got.Armed {
				t.Errorf("auto: %+v, want TC, armed", got)
			}
			b.mustLimitInside(kind.families...)
			if i := b.one(); !i.Armed || i.Traffic != datapath.TrafficFlowing || i.Judged > i.Received || i.Judged+kind.own < i.Received {
				t.Errorf("status: %+v, want it armed, and all that was received judged", i)
			}
		})
	}
}
