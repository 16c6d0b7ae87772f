// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// wire sends crafted packets to a bench's server and sees which of them its stack answers: through the
// client's end of the veth, or right into a tun device of the server.
type wire struct {
	*bench
	fd, index int
	tun       *os.File
	macs      tg.Mutation
	// next is the number of the next source.
	next int
	// counted is the tally after the last shape.
	counted tally
}

// The networks that sources come from, one of IPv4 and one of IPv6 for each. They are none of the client's
// addresses, so the client is silent about all answers.
var (
	allSources  = [2]netip.Prefix{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("fd78::/15")}
	limitedNets = [2]netip.Prefix{netip.MustParsePrefix("198.18.0.0/17"), netip.MustParsePrefix("fd78::/32")}
	blockedNets = [2]netip.Prefix{netip.MustParsePrefix("198.19.0.0/17"), netip.MustParsePrefix("fd79:1::/32")}
	allowedNets = [2]netip.Prefix{netip.MustParsePrefix("198.19.128.0/17"), netip.MustParsePrefix("fd79:2::/32")}
)

// wirePort is where the server listens on both families.
const wirePort = 8080

func newWire(b *bench) *wire {
	b.t.Helper()
	w := &wire{bench: b}
	w.listen(b.ClientIP4, b.ClientIP6)
	server, err := b.Server.MAC(b.ServerIf)
	client, clientErr := b.Client.MAC(b.ClientIf)
	err = errors.Join(err, clientErr,
		b.Client.AddRoute(b.ClientIf, allSources[0], b.ServerIP4), b.Client.AddRoute(b.ClientIf, allSources[1], b.ServerIP6))
	if err == nil {
		w.macs = tg.MACs(client, server)
		w.index, err = b.ClientIndex()
	}
	if err == nil {
		err = b.Client.Do(w.openPacketSocket)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

// newTunWire makes a tun device of the server, to which attach then goes.
func newTunWire(b *bench) *wire {
	b.t.Helper()
	w := &wire{bench: b, macs: tg.WithoutLink()}
	err := b.Server.Do(func() (err error) { w.tun, err = openTun(); return err })
	if err != nil {
		skipWithout(b.t, err, "tun")
	}
	b.t.Cleanup(func() { _ = w.tun.Close() })
	w.fd = int(w.tun.Fd())
	if err := b.Server.LinkUp(innerIf); err != nil {
		b.t.Fatal(err)
	}
	b.ServerIf = innerIf
	w.listen(netip.Addr{}, netip.Addr{})
	return w
}

// listen makes the server answer, to all sources by these gateways.
func (w *wire) listen(via4, via6 netip.Addr) {
	w.t.Helper()
	for _, f := range bothFamilies() {
		w.server(f.server, testenv.ServerOptions{})
	}
	err := errors.Join(w.Server.AddRoute(w.ServerIf, allSources[0], via4), w.Server.AddRoute(w.ServerIf, allSources[1], via6))
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) openPacketSocket() (err error) {
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: w.index})
}

// syn is a plain SYN from a source to the listener.
func (w *wire) syn(ip6 bool, source netip.AddrPort) tg.Packet {
	server := w.ServerIP4
	if ip6 {
		server = w.ServerIP6
	}
	return tg.SYN(source, netip.AddrPortFrom(server, wirePort)).With(w.macs)
}

// source is the next address that has not been used, with a /64 of its own.
func (w *wire) source(ip6 bool, nets [2]netip.Prefix) netip.AddrPort {
	w.next++
	high, low := byte(w.next>>8), byte(w.next)
	if !ip6 {
		addr := nets[0].Addr().As4()
		addr[2], addr[3] = addr[2]|high, low
		return netip.AddrPortFrom(netip.AddrFrom4(addr), 4000)
	}
	addr := nets[1].Addr().As16()
	addr[6], addr[7], addr[15] = high, low, 7
	return netip.AddrPortFrom(netip.AddrFrom16(addr), 4000)
}

// answersTo sends packets and returns which sources got a SYN-ACK. A last SYN from an allowed source is
// answered after all others, for all are sent, received and answered in turn on one CPU.
func (w *wire) answersTo(ip6 bool, packets ...tg.Packet) map[netip.AddrPort]bool {
	w.t.Helper()
	last := w.source(ip6, allowedNets)
	packets = append(packets, w.syn(ip6, last))
	if err := onCPU(0, func() error { return w.send(packets) }); err != nil {
		w.t.Fatal(err)
	}
	answers, frame := map[netip.AddrPort]bool{}, make([]byte, 65536)
	for !answers[last] {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, 10_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || ready == 0 {
			w.t.Fatalf("wait for the answer to the last SYN: %v; so far answered: %v", err, answers)
		}
		n, err := unix.Read(w.fd, frame)
		if err != nil {
			w.t.Fatal(err)
		}
		if to, ok := synAckTo(w.network(frame[:n])); ok {
			answers[to] = true
		}
	}
	delete(answers, last)
	return answers
}

func (w *wire) send(packets []tg.Packet) error {
	for _, p := range packets {
		var err error
		if w.tun != nil {
			_, err = unix.Write(w.fd, p.Bytes())
		} else {
			err = unix.Sendto(w.fd, p.Bytes(), 0, &unix.SockaddrLinklayer{Ifindex: w.index})
		}
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// network is what follows the link header.
func (w *wire) network(frame []byte) []byte {
	if w.tun != nil {
		return frame
	}
	return frame[min(14, len(frame)):]
}

// synAckTo tells whom an IP packet answers with a SYN-ACK from the listener.
func synAckTo(ip []byte) (to netip.AddrPort, ok bool) {
	at, addr := 20, 16
	if len(ip) > 0 && ip[0]>>4 == 6 {
		at, addr = 40, 24
	}
	if len(ip) < at+20 || ip[at+13]&(tg.SYNFlag|tg.ACK|tg.RST|tg.FIN) != tg.SYNFlag|tg.ACK {
		return to, false
	}
	dst, _ := netip.AddrFromSlice(ip[addr:at])
	from, port := binary.BigEndian.Uint16(ip[at:]), binary.BigEndian.Uint16(ip[at+2:])
	return netip.AddrPortFrom(dst, port), from == wirePort
}

// tagShapes are SYNs of VLANs that nobody here takes: counted all the same, for there may be a bridge
// or a VM behind the interface. What lies deeper than two tags belongs to the VLAN's own interface.
func tagShapes() []shape {
	const q, ad = tg.TPID8021Q, tg.TPID8021AD
	fresh, deep := []fate{isJudged}, []fate{isDeep}
	return []shape{
		{name: "802.1Q", frames: one(tg.Tagged(q)), fates: fresh},
		{name: "802.1ad", frames: one(tg.Tagged(ad)), fates: fresh},
		{name: "802.1Q in 802.1Q", frames: one(tg.Tagged(q, q)), fates: fresh},
		{name: "802.1Q in 802.1ad", frames: one(tg.Tagged(ad, q)), fates: fresh},
		{name: "802.1ad in 802.1Q", frames: one(tg.Tagged(q, ad)), fates: fresh},
		{name: "802.1ad in 802.1ad", frames: one(tg.Tagged(ad, ad)), fates: fresh},
		{name: "3 tags", frames: one(tg.Tagged(ad, q, q)), fates: deep, tc: fresh},
		{name: "4 tags", frames: one(tg.Tagged(ad, q, q, q)), fates: deep},
		{
			name: "2 fragments behind 2 tags", fates: []fate{isJudged, isLater},
			frames: func(syn tg.Packet) []tg.Packet { return split(24)(syn.With(tg.Tagged(ad, q))) },
		},
	}
}

// vlanOn makes a VLAN device of one end of a pair.
func vlanOn(ns *testenv.Namespace, parent string, id int, protocol netlink.VlanProtocol) (name string, err error) {
	index, err := ns.Index(parent)
	if err != nil {
		return "", err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = fmt.Sprintf("%s.%d", parent, id), index
	err = ns.Netlink().LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: protocol})
	if err != nil {
		return "", fmt.Errorf("make %s: %w", attrs.Name, err)
	}
	return attrs.Name, ns.LinkUp(attrs.Name)
}

// vlanPair makes the same VLAN devices, one on the other, at both ends of a bench.
func (b *bench) vlanPair(tags ...tg.VLAN) (server, client string) {
	b.t.Helper()
	server, client = b.ServerIf, b.ClientIf
	for _, tag := range tags {
		var err, clientErr error
		protocol := netlink.VlanProtocol(tag.TPID)
		server, err = vlanOn(b.Server, server, int(tag.TCI), protocol)
		if err == nil {
			client, clientErr = vlanOn(b.Client, client, int(tag.TCI), protocol)
		}
		if err := errors.Join(err, clientErr); err != nil {
			skipWithout(b.t, err, "8021q")
		}
	}
	return server, client
}

// address gives two devices that are joined the inner addresses, and each the other's hardware address.
func (b *bench) address(server, client string) {
	b.t.Helper()
	serverMAC, err := b.Server.MAC(server)
	clientMAC, clientErr := b.Client.MAC(client)
	err = errors.Join(err, clientErr)
	for _, f := range innerFamilies() {
		err = errors.Join(err,
			b.Server.AddAddrs(server, inner(f.server)), b.Client.AddAddrs(client, inner(f.client), inner(f.beside)),
			b.Client.AddNeigh(client, f.server, serverMAC),
			b.Server.AddNeigh(server, f.client, clientMAC), b.Server.AddNeigh(server, f.beside, clientMAC))
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// Real connections over VLAN devices are limited and blocked where synward is on the interface below.
func TestVLANDevicesAreLimitedOnTheirParent(t *testing.T) {
	for name, tags := range map[string][]tg.VLAN{
		"802.1Q": {{TPID: tg.TPID8021Q, TCI: 100}}, "802.1ad": {{TPID: tg.TPID8021AD, TCI: 100}},
		"802.1Q in 802.1ad": {{TPID: tg.TPID8021AD, TCI: 100}, {TPID: tg.TPID8021Q, TCI: 7}},
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode datapath.Mode) {
				b := newBench(t, testenv.PairOptions{})
				b.address(b.vlanPair(tags...))
				b.attach(mode, rate(1, time.Hour, 2))
				b.mustLimitInside("IPv4", "IPv6")
			})
		})
	}
}

// On a VLAN's own interface synward judges that VLAN and nothing else of the interface below.
func TestVLANDeviceIsAttachedByTC(t *testing.T) {
	b := newBench(t, testenv.PairOptions{})
	server, client := b.vlanPair(tg.VLAN{TPID: tg.TPID8021Q, TCI: 100})
	b.address(server, client)
	below := b.server(b.ServerIP4, testenv.ServerOptions{})
	b.ServerIf = server
	if got := b.attach(datapath.ModeAuto, rate(1, time.Hour, 2)); got.Interface.Mode != datapath.ModeTC {
		t.Errorf("auto took %s: %+v", got.Interface.Mode, got)
	}
	for range 5 {
		b.mustConnect(below, netip.MustParseAddr("10.77.0.2"))
	}
	b.mustLimitInside("IPv4", "IPv6")
}
