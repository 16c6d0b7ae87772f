// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// resetPort is the port whose SYNs are answered with RST; a server listens there that must never know.
const resetPort = 8080

// The others are one whose SYNs pass and one that nobody uses.
const openPort, noPort = 8081, 9

// patience is how long a busy machine may take; an idle one refuses in less than a millisecond.
const patience = 5 * time.Second

// attachReset makes the server's interface answer. What XDP_TX gives a veth its peer only takes while it runs a
// program itself: with GRO alone it is queued, and not delivered before something else wakes the peer.
func (b *bench) attachReset(mode datapath.Mode, hasLink bool) {
	b.t.Helper()
	attach := func(ns *testenv.Namespace, ifname string, port uint16) error {
		return ns.Do(func() error { return datapath.AttachReset(b.t, ifname, mode, hasLink, port) })
	}
	err := attach(b.Server, b.ServerIf, resetPort)
	if err == nil && mode == datapath.ModeNative {
		err = attach(b.Client, b.ClientIf, noPort)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// mustRefuseConnections makes real connections, refused at the first SYN (most of them at least, for a busy machine
// is slow) and by no one but the program, and one beside them that is not. The client finds nothing wrong with any
// checksum.
func (b *bench) mustRefuseConnections(from, to netip.Addr) {
	b.t.Helper()
	closed := testenv.NewServer(b.t, b.Server, netip.AddrPortFrom(to, resetPort), testenv.ServerOptions{})
	open := testenv.NewServer(b.t, b.Server, netip.AddrPortFrom(to, openPort), testenv.ServerOptions{})
	before := b.checksumErrors()
	const attempts = 20
	late := 0
	for range attempts {
		begin := time.Now()
		err := testenv.Connect(b.Client, from, closed.Addr(), patience)
		if !errors.Is(err, testenv.ErrRefused) {
			b.t.Fatalf("connect from %s to %s: %v after %v; want it refused", from, to, err, time.Since(begin))
		}
		if time.Since(begin) > 900*time.Millisecond {
			late++
		}
	}
	if late > attempts/2 {
		b.t.Errorf("%d of %d were refused no sooner than the SYN was repeated", late, attempts)
	}
	if err := testenv.Connect(b.Client, from, open.Addr(), patience); err != nil {
		b.t.Errorf("connect from %s to the open port: %v", from, err)
	}
	if closed.Total() != 0 || open.Total() != 1 {
		b.t.Errorf("servers accepted %d and %d, want 0 and 1", closed.Total(), open.Total())
	}
	if after := b.checksumErrors(); after != before {
		b.t.Errorf("the client counted %d checksum errors", after-before)
	}
}

// checksumErrors is what the client's TCP has counted, of both families.
func (b *bench) checksumErrors() uint64 { return b.clientCounter("snmp", "Tcp:", "InCsumErrors") }

// clientCounter is one of a table in /proc/net of the client.
func (b *bench) clientCounter(file, table, counter string) (n uint64) {
	b.t.Helper()
	err := b.Client.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) == 0 || fields[0] != table {
				continue
			}
			if names == nil {
				names = fields
				continue
			}
			if i := slices.Index(names, counter); i >= 0 {
				n, err = strconv.ParseUint(fields[i], 10, 64)
				return err
			}
		}
		return fmt.Errorf("no %s in %s", counter, text)
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

func TestResetRefusesConnections(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range bothFamilies() {
			for _, client := range []bool{true, false} {
				for _, server := range []bool{true, false} {
					t.Run(fmt.Sprintf("%s, checksums by client's device %v, server's %v", name, client, server), func(t *testing.T) {
						b := newBench(t, testenv.PairOptions{})
						err := errors.Join(b.Client.SetTxChecksum(b.ClientIf, client), b.Server.SetTxChecksum(b.ServerIf, server))
						if err != nil {
							t.Fatal(err)
						}
						b.attachReset(mode, true)
						b.mustRefuseConnections(f.client, f.server)
					})
				}
			}
		}
	})
}

// What stands between the addresses and the TCP header moves that header, on which a checksum that
// is still to be made depends.
func TestResetAnswersRealOptions(t *testing.T) {
	options := map[string][]func(fd int) error{"IPv4": nil, "IPv6": nil}
	for _, n := range []int{4, 20, 40} {
		options["IPv4"] = append(options["IPv4"], func(fd int) error {
			return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, strings.Repeat("\x01", n))
		})
	}
	for _, units := range []int{1, 5} { // a destination options header of PadN alone
		options["IPv6"] = append(options["IPv6"], func(fd int) error {
			header := append([]byte{0, byte(units - 1), 1, 4, 0, 0, 0, 0}, bytes.Repeat([]byte{0x1e, 6, 0, 0, 0, 0, 0, 0}, units-1)...)
			return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, string(header))
		})
	}
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		for name, f := range bothFamilies() {
			b := newBench(t, testenv.PairOptions{})
			b.attachReset(mode, true)
			// In generic mode the checksum of such an skb is the kernel's to spoil, see reset.h.
			if err := b.Server.SetTxChecksum(b.ServerIf, false); err != nil {
				t.Fatal(err)
			}
			b.mustRefuseWith(f.server, options[name]...)
		}
	})
}

// mustRefuseWith makes a connection with each socket option.
func (b *bench) mustRefuseWith(server netip.Addr, options ...func(fd int) error) {
	b.t.Helper()
	before := b.checksumErrors()
	for n, set := range options {
		err := b.connectWith(netip.AddrPortFrom(server, resetPort), set)
		if !errors.Is(err, unix.ECONNREFUSED) {
			b.t.Errorf("connect to %s with option %d: %v; want it refused", server, n, err)
		}
	}
	if after := b.checksumErrors(); after != before {
		b.t.Errorf("the client counted %d checksum errors", after-before)
	}
}

// connectWith makes a blocking connect.
func (b *bench) connectWith(to netip.AddrPort, set func(fd int) error) error {
	return b.Client.Do(func() error {
		family, addr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
		if to.Addr().Is4() {
			family, addr = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		err = errors.Join(set(fd), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: int64(patience / time.Second)}))
		if err != nil {
			return err
		}
		return unix.Connect(fd, addr)
	})
}

// On the wire the answer has the SYN's tags, wherever the kernel keeps them meanwhile.
func TestResetKeepsTagsOnTheWire(t *testing.T) {
	eachMode(t, func(t *testing.T, mode datapath.Mode) {
		b := newBench(t, testenv.PairOptions{})
		w := newWire(b)
		b.attachReset(mode, true)
		if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			t.Fatal(err)
		}
		for _, tags := range [][]uint16{nil, {tg.TPID8021Q}, {tg.TPID8021AD}, {tg.TPID8021AD, tg.TPID8021Q}, {tg.TPID8021Q, tg.TPID8021Q}} {
			for _, ip6 := range []bool{false, true} {
				for _, options := range []int{0, 16, 24} {
					if mode == datapath.ModeTC && len(tags) == 2 && options > 20 {
						continue // refused where the kernel knows the TCP header of old, see cut_skb
					}
					syn := w.syn(ip6, w.source(ip6, limitedNets)).With(tg.Tagged(tags...), func(p *tg.Packet) {
						p.IPv4Options = options
						tg.Behind(options/8, tg.ExtHeader{Proto: tg.DestOpts})(p)
					})
					if err := w.send([]tg.Packet{syn}); err != nil {
						t.Fatal(err)
					}
					if got, want := w.nextReset(), datapath.AnswerTo(t, syn); !bytes.Equal(got, want) {
						t.Errorf("tags %x, IPv6 %v, %d bytes before TCP:\n%x, want\n%x", tags, ip6, options, got, want)
					}
				}
			}
		}
	})
}

// nextReset is the next TCP frame from the server, with the tag that the client's kernel took off.
func (w *wire) nextReset() []byte {
	w.t.Helper()
	frame, control := make([]byte, 2048), make([]byte, 256)
	for {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, 5000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || ready == 0 {
			w.t.Fatalf("wait for the answer: %v, %v", ready, err)
		}
		n, size, _, _, err := unix.Recvmsg(w.fd, frame, control, 0)
		if err != nil {
			w.t.Fatal(err)
		}
		if from := w.syn(false, netip.AddrPort{}).DstMAC; !bytes.Equal(frame[6:12], from[:]) {
			continue
		}
		return append(append(bytes.Clone(frame[:12]), takenTag(w.t, control[:size])...), frame[12:n]...)
	}
}

// takenTag is the tag in a packet socket's struct tpacket_auxdata, empty if there was none.
func takenTag(t *testing.T, control []byte) []byte {
	t.Helper()
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil || len(messages) != 1 || len(messages[0].Data) < 20 {
		t.Fatalf("control messages: %v, %v", messages, err)
	}
	data := messages[0].Data
	if binary.NativeEndian.Uint32(data)&unix.TP_STATUS_VLAN_VALID == 0 {
		return nil
	}
	tag := binary.BigEndian.AppendUint16(nil, binary.NativeEndian.Uint16(data[18:]))
	return binary.BigEndian.AppendUint16(tag, binary.NativeEndian.Uint16(data[16:]))
}

// Real connections over VLAN devices, refused on the interface below; the client's sockets take answers by no other
// VLAN. Not native: there a veth hides the tag that a VLAN device sends beside the packet, see reset_xdp.
func TestResetRefusesOverVLANDevices(t *testing.T) {
	for name, tags := range map[string][]tg.VLAN{
		"802.1Q": {{TPID: tg.TPID8021Q, TCI: 100}}, "802.1ad": {{TPID: tg.TPID8021AD, TCI: 100}},
		"802.1Q in 802.1ad": {{TPID: tg.TPID8021AD, TCI: 100}, {TPID: tg.TPID8021Q, TCI: 7}},
	} {
		for _, mode := range []datapath.Mode{datapath.ModeGeneric, datapath.ModeTC} {
			t.Run(name+"/"+string(mode), func(t *testing.T) {
				b := newBench(t, testenv.PairOptions{})
				server, client := b.vlanPair(tags...)
				b.address(server, client)
				b.attachReset(mode, true)
				for _, f := range innerFamilies() {
					b.mustRefuseWith(f.server, func(fd int) error { return unix.BindToDevice(fd, client) })
				}
			})
		}
	}
}

// A device without link headers, whatever it puts before the IP header, also where the answer's
// checksum is not left to a device. Multipoint gre would need another header: there nothing is answered.
func TestResetOnL3Device(t *testing.T) {
	for _, kind := range tunnels() {
		for _, offload := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, offload %v", kind.name, offload), func(t *testing.T) {
				b := newTunnelBench(t, kind)
				for end, ns := range map[string]*testenv.Namespace{b.ServerIf: b.Server, b.ClientIf: b.Client} {
					if err := ns.SetTxChecksum(end, offload); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
						t.Fatal(err)
					}
				}
				b.attachReset(datapath.ModeTC, false)
				for _, name := range kind.families {
					f := innerFamilies()[name]
					if kind.name == "gre, multipoint" {
						b.mustNotConnect(b.server(f.server, testenv.ServerOptions{}), f.client)
						continue
					}
					b.mustRefuseConnections(f.client, f.server)
				}
			})
		}
	}
}
