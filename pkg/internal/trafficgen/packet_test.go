// SPDX-License-Identifier: Apache-2.0

package trafficgen

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	client4 = netip.MustParseAddrPort("192.0.2.1:40000")
	server4 = netip.MustParseAddrPort("198.51.100.7:443")
	client6 = netip.MustParseAddrPort("[2001:db8::1]:40000")
	server6 = netip.MustParseAddrPort("[2001:db8:9::7]:443")
)

// decode takes a frame apart and fails on anything that gopacket finds wrong with it.
func decode(t *testing.T, frame []byte) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if failure := p.ErrorLayer(); failure != nil {
		t.Fatalf("decode: %v\n%x", failure.Error(), frame)
	}
	return p
}

// rebuild serializes the layers of a packet again, with lengths and checksums made by gopacket.
func rebuild(t *testing.T, p gopacket.Packet) []byte {
	t.Helper()
	var parts []gopacket.SerializableLayer
	for _, layer := range p.Layers() {
		switch l := layer.(type) {
		case *layers.TCP:
			_ = l.SetNetworkLayerForChecksum(p.NetworkLayer())
		case *layers.UDP:
			_ = l.SetNetworkLayerForChecksum(p.NetworkLayer())
		case *layers.ICMPv6:
			_ = l.SetNetworkLayerForChecksum(p.NetworkLayer())
		}
		parts = append(parts, layer.(gopacket.SerializableLayer))
	}
	out := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestGopacketBuildsTheSameBytes(t *testing.T) {
	odd := []byte("seven b")
	for name, p := range map[string]Packet{
		"syn4":         SYN(client4, server4),
		"syn6":         SYN(client6, server6),
		"all flags":    Segment(client4, server4, 0xff),
		"payload":      Segment(client6, server6, ACK|PSH).With(func(p *Packet) { p.Payload, p.Ack = odd, 77 }),
		"udp4":         Datagram(client4, server4, odd),
		"udp6":         Datagram(client6, server6, odd),
		"ping4":        Echo(client4.Addr(), server4.Addr()),
		"vlan":         SYN(client4, server4).With(Tagged(TPID8021Q)),
		"qinq":         SYN(client6, server6).With(Tagged(TPID8021AD, TPID8021Q)),
		"three":        SYN(client4, server4).With(Tagged(TPID8021Q, TPID8021Q, TPID8021Q)),
		"df, tos, ttl": SYN(client4, server4).With(func(p *Packet) { p.DF, p.TOS, p.TTL = true, 0x12, 3 }),
	} {
		t.Run(name, func(t *testing.T) {
			frame := p.Bytes()
			// gopacket fills short frames up with zeros.
			again := rebuild(t, decode(t, frame))
			if !bytes.HasPrefix(again, frame) || len(again) > max(60, len(frame)) {
				t.Errorf("built\n%x\ngopacket builds\n%x", frame, again)
			}
		})
	}
}

func TestFieldsAreWhatWasAsked(t *testing.T) {
	p := SYN(client4, server4).With(Tagged(TPID8021AD, TPID8021Q))
	got := decode(t, p.Bytes())
	tags := slices.DeleteFunc(got.Layers(), func(l gopacket.Layer) bool { return l.LayerType() != layers.LayerTypeDot1Q })
	if len(tags) != 2 || tags[0].(*layers.Dot1Q).VLANIdentifier != 100 || tags[1].(*layers.Dot1Q).VLANIdentifier != 101 {
		t.Errorf("tags %v, want ids 100 and 101", tags)
	}
	got = decode(t, p.Bytes())
	if outer := got.LinkLayer().(*layers.Ethernet).EthernetType; outer != layers.EthernetTypeQinQ {
		t.Errorf("outer type %v, want 802.1ad", outer)
	}
	tcp := got.TransportLayer().(*layers.TCP)
	if !tcp.SYN || tcp.ACK || tcp.SrcPort != 40000 || tcp.DstPort != 443 || tcp.Seq != p.Seq || len(tcp.Options) != 5 {
		t.Errorf("tcp %+v", tcp)
	}
	ip := got.NetworkLayer().(*layers.IPv4)
	if ip.SrcIP.String() != "192.0.2.1" || ip.DstIP.String() != "198.51.100.7" || ip.TTL != 64 {
		t.Errorf("ip %+v", ip)
	}
}

func TestIPv4OptionsLengthenTheHeader(t *testing.T) {
	for n := 0; n <= 40; n += 4 {
		frame := SYN(client4, server4).With(func(p *Packet) { p.IPv4Options = n }).Bytes()
		got := decode(t, frame)
		ip := got.NetworkLayer().(*layers.IPv4)
		if int(ip.IHL) != 5+n/4 || int(ip.Length) != len(frame)-14 || got.TransportLayer() == nil {
			t.Errorf("%d bytes of options: header length %d, total length %d", n, ip.IHL, ip.Length)
		}
		if fold(sum(frame[14:14+int(ip.IHL)*4])) != 0 {
			t.Errorf("%d bytes of options: checksum is wrong", n)
		}
	}
}

func TestARPAndOtherFrames(t *testing.T) {
	arp := decode(t, ARP(client4.Addr(), server4.Addr()).Bytes()).Layer(layers.LayerTypeARP).(*layers.ARP)
	if !bytes.Equal(arp.SourceProtAddress, client4.Addr().AsSlice()) || arp.Operation != layers.ARPRequest {
		t.Errorf("arp %+v", arp)
	}
	frame := Raw(EtherTypeLocalExp, []byte("hello")).Bytes()
	if len(frame) != 60 || be.Uint16(frame[12:]) != EtherTypeLocalExp || string(frame[14:19]) != "hello" {
		t.Errorf("frame %x", frame)
	}
	if p := SYN(client6, server6).With(WithoutLink()).Bytes(); p[0]>>4 != 6 || len(p) != 80 {
		t.Errorf("without link header it begins %x and has %d bytes", p[0], len(p))
	}
}

// walk follows the next-header chain of an IPv6 packet and returns the numbers it meets and where it ends.
func walk(t *testing.T, frame []byte) (chain []uint8, at int) {
	t.Helper()
	next := frame[14+6]
	for at = 14 + 40; ; {
		chain = append(chain, next)
		size := 0
		switch next {
		case HopByHop, Routing, DestOpts, Mobility:
			size = int(frame[at+1])*8 + 8
		case FragmentHdr:
			size = 8
		case AH:
			size = int(frame[at+1])*4 + 8
		default:
			return chain, at
		}
		next = frame[at]
		if at += size; at > len(frame) {
			t.Fatalf("chain %v ends at %d of %d bytes", chain, at, len(frame))
		}
	}
}

func TestExtensionHeadersFormAChain(t *testing.T) {
	kinds := []uint8{HopByHop, Routing, FragmentHdr, DestOpts, AH, Mobility}
	for _, n := range []int{1, 8, 9, 100} {
		for _, kind := range kinds {
			p := SYN(client6, server6).With(Behind(n, ExtHeader{Proto: kind}))
			frame := p.Bytes()
			chain, at := walk(t, frame)
			if len(chain) != n+1 || chain[0] != kind || chain[n] != TCP {
				t.Errorf("%d of %d: chain %v", n, kind, chain)
			}
			if len(frame)-at != 40 || be.Uint16(frame[at+2:]) != 443 || int(be.Uint16(frame[18:])) != len(frame)-54 {
				t.Errorf("%d of %d: TCP is not where the chain ends (%d of %d)", n, kind, at, len(frame))
			}
		}
	}
	long := ExtHeader{Proto: DestOpts, Len: 264}
	p := SYN(client6, server6).With(Behind(1, ExtHeader{Proto: HopByHop, Len: 24}), Behind(1, long))
	if chain, at := walk(t, p.Bytes()); !slices.Equal(chain, []uint8{0, 60, 6}) || at != 54+24+264 {
		t.Errorf("chain %v ends at %d", chain, at)
	}
	p = SYN(client6, server6).With(func(p *Packet) { p.Proto = NoNext })
	if chain, at := walk(t, p.Bytes()); !slices.Equal(chain, []uint8{NoNext}) || at != len(p.Bytes()) {
		t.Errorf("no next header: chain %v ends at %d of %d", chain, at, len(p.Bytes()))
	}
}

func TestFragments(t *testing.T) {
	frame := SYN(client4, server4).With(Fragmented(800, true)).Bytes()
	ip := decode(t, frame).NetworkLayer().(*layers.IPv4)
	if ip.FragOffset != 100 || ip.Flags != layers.IPv4MoreFragments || ip.Id != 0x1234 || len(ip.Payload) != 0 {
		t.Errorf("IPv4 %+v", ip)
	}
	frame = SYN(client6, server6).With(Behind(1, ExtHeader{Proto: DestOpts}), Fragmented(8, true)).Bytes()
	if chain, at := walk(t, frame); !slices.Equal(chain, []uint8{60, 44, 6}) || be.Uint16(frame[at-6:]) != 8|1 {
		t.Errorf("IPv6 chain %v, offset %#x", chain, be.Uint16(frame[at-6:]))
	}
	for _, whole := range []Packet{SYN(client4, server4), SYN(client6, server6)} {
		first, second := whole.Split(24)
		a, b := first.transport(), second.transport()
		if len(a) != 24 || !bytes.Equal(slices.Concat(a, b), whole.transport()) {
			t.Errorf("halves of %d and %d bytes do not make the whole", len(a), len(b))
		}
		if len(first.Bytes()) >= len(whole.Bytes()) {
			t.Error("the first half is not shorter")
		}
	}
	if cut := SYN(client4, server4).With(Cut(8)).Bytes(); len(cut) != 14+20+8 || be.Uint16(cut[16:]) != 28 {
		t.Errorf("cut frame has %d bytes and says %d", len(cut), be.Uint16(cut[16:]))
	}
}

func TestOverwritingAFieldChangesThatFieldOnly(t *testing.T) {
	for _, c := range []struct {
		name   string
		spoil  Mutation
		bytes  []int // that may differ
		family netip.AddrPort
	}{
		{"version", func(p *Packet) { p.Version = new(uint8(5)) }, []int{14, 24, 25}, client4},
		{"header length 4", func(p *Packet) { p.IHL = new(uint8(4)) }, []int{14, 24, 25}, client4},
		{"header length 0", func(p *Packet) { p.IHL = new(uint8(0)) }, []int{14, 24, 25}, client4},
		{"total length", func(p *Packet) { p.IPLength = new(uint16(19)) }, []int{16, 17, 24, 25}, client4},
		{"ip checksum", func(p *Packet) { p.IPChecksum = new(uint16(1)) }, []int{24, 25}, client4},
		{"protocol", func(p *Packet) { p.NextHeader = new(uint8(200)) }, []int{23, 24, 25}, client4},
		{"data offset", func(p *Packet) { p.DataOffset = new(uint8(4)) }, []int{46, 50, 51}, client4},
		{"checksum", func(p *Packet) { p.Checksum = new(uint16(1)) }, []int{50, 51}, client4},
		{"flags", Flags(SYNFlag | FIN), []int{47, 50, 51}, client4},
		{"payload length", func(p *Packet) { p.IPLength = new(uint16(0)) }, []int{18, 19}, client6},
		{"next header", func(p *Packet) { p.NextHeader = new(uint8(200)) }, []int{20}, client6},
		{"ethertype", func(p *Packet) { p.EtherType = EtherTypeIPv4 }, []int{12, 13}, client6},
	} {
		good := SYN(client4, server4)
		if c.family == client6 {
			good = SYN(client6, server6)
		}
		want, got := good.Bytes(), good.With(c.spoil).Bytes()
		if len(want) != len(got) || bytes.Equal(want, got) {
			t.Errorf("%s: %d bytes, want %d that differ", c.name, len(got), len(want))
			continue
		}
		for i := range want {
			if want[i] != got[i] && !slices.Contains(c.bytes, i) {
				t.Errorf("%s: byte %d changed", c.name, i)
			}
		}
	}
}

func TestWithLeavesTheOriginalAlone(t *testing.T) {
	base := SYN(client6, server6).With(Tagged(TPID8021Q), Behind(1, ExtHeader{Proto: DestOpts}))
	before := base.Bytes()
	base.With(func(p *Packet) { p.VLANs[0].TCI, p.Ext[0].Proto, p.TCPOptions[0] = 9, Routing, 0 }, Behind(3, ExtHeader{Proto: AH}))
	if !bytes.Equal(before, base.Bytes()) {
		t.Error("a mutation of the copy reached the original")
	}
}

func TestQUICInitial(t *testing.T) {
	for version, kind := range map[uint32]byte{QUICv1: 0, QUICv2: 1} {
		for _, dcid := range [][]byte{nil, []byte("12345678"), bytes.Repeat([]byte{7}, 20)} {
			b := QUICInitial(version, dcid)
			rest := b[6+len(dcid)+1+4+1:]
			length := int(binary.BigEndian.Uint16(rest) & 0x3fff)
			where := fmt.Sprintf("version %#x, id of %d bytes", version, len(dcid))
			if len(b) != 1200 || b[0]>>6 != 3 || b[0]>>4&3 != kind || be.Uint32(b[1:]) != version {
				t.Errorf("%s: begins %x and has %d bytes", where, b[:5], len(b))
			}
			if !bytes.Equal(b[6:6+len(dcid)], dcid) || length != len(rest)-2 {
				t.Errorf("%s: id or length %d is wrong", where, length)
			}
		}
	}
}
