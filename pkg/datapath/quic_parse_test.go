// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

var (
	quicDCID = []byte("original")
	quicSCID = []byte("abc")
)

// quicRow is a datagram with one Initial and one mutation, and what quic_parse makes of it.
type quicRow struct {
	name   string
	packet tg.Packet
	want   uint32
	bytes  uint32 // of a datagram that asks; 0 is 1200
}

// initial4 and initial6 are Initials of version 1, with changes made.
func initial4(change ...func(q *tg.QUICPacket)) tg.Packet {
	q := tg.Initial(quicDCID, quicSCID)
	for _, c := range change {
		c(&q)
	}
	return tg.QUICFrame(client4, server4, q)
}

func initial6(change ...func(q *tg.QUICPacket)) tg.Packet {
	p := initial4(change...)
	p.Src, p.Dst = client6.Addr(), server6.Addr()
	return p
}

func first(b byte) func(q *tg.QUICPacket)        { return func(q *tg.QUICPacket) { q.First = b } }
func version(v uint32) func(q *tg.QUICPacket)    { return func(q *tg.QUICPacket) { q.Version = v } }
func dcid(id []byte) func(q *tg.QUICPacket)      { return func(q *tg.QUICPacket) { q.DCID = id } }
func scid(id []byte) func(q *tg.QUICPacket)      { return func(q *tg.QUICPacket) { q.SCID = id } }
func token(token []byte) func(q *tg.QUICPacket)  { return func(q *tg.QUICPacket) { q.Token = token } }
func udpLength(n uint16) tg.Mutation             { return func(p *tg.Packet) { p.UDPLength = &n } }
func payload(b []byte) tg.Mutation               { return func(p *tg.Packet) { p.Payload = b } }
func quicBytes(n int, q ...tg.QUICPacket) []byte { return tg.QUICDatagram(n, q...) }

func quicHeaderRows() []quicRow {
	early := tg.QUICPacket{First: tg.QUICZeroRTTV1, Version: tg.QUICv1, DCID: quicDCID, SCID: quicSCID, Payload: 30}
	return []quicRow{
		{name: "version 1, IPv4", packet: initial4(), want: quicAsks},
		{name: "version 1, IPv6", packet: initial6(), want: quicAsks},
		{name: "version 2", packet: initial4(version(tg.QUICv2), first(tg.QUICInitialV2)), want: quicAsks},
		{name: "draft 29", packet: initial4(version(tg.QUICDraft29)), want: quicAsks},
		{name: "a version that nobody has", packet: initial4(version(0x1a2a3a4a)), want: quicAsks},
		{name: "version 0: negotiation", packet: initial4(version(0)), want: quicOther},
		{name: "short header", packet: initial4(first(0x43)), want: quicOther},
		{name: "fixed bit cleared", packet: initial4(first(0x83)), want: quicAsks},
		{name: "0-RTT", packet: initial4(first(tg.QUICZeroRTTV1), token(nil)), want: quicAsks},
		{name: "Handshake", packet: initial4(first(tg.QUICHandshakeV1), token(nil)), want: quicAsks},
		{name: "Initial behind 0-RTT", packet: tg.QUICFrame(client4, server4, early, tg.Initial(quicDCID, quicSCID)), want: quicAsks},
		{name: "no destination id", packet: initial4(dcid(nil)), want: quicAsks},
		{name: "destination id of 7", packet: initial4(dcid(make([]byte, 7))), want: quicAsks},
		{name: "destination id of 20", packet: initial4(dcid(make([]byte, 20))), want: quicAsks},
		{name: "destination id of 21", packet: initial4(dcid(make([]byte, 21))), want: quicAsks},
		{name: "destination id of 255", packet: initial4(dcid(make([]byte, 255))), want: quicAsks},
		{name: "no source id", packet: initial4(scid(nil)), want: quicAsks},
		{name: "source id of 20", packet: initial4(scid(make([]byte, 20))), want: quicAsks},
		{name: "source id of 255", packet: initial4(scid(make([]byte, 255))), want: quicAsks},
		{name: "both ids of 255", packet: initial4(dcid(make([]byte, 255)), scid(make([]byte, 255))), want: quicAsks},
	}
}

func quicLengthRows() []quicRow {
	long, short := quicBytes(1201, tg.Initial(quicDCID, quicSCID)), quicBytes(1199, tg.Initial(quicDCID, quicSCID))
	lying := func(p tg.Packet, n uint16) tg.Packet { return p.With(udpLength(n)) }
	return []quicRow{
		{name: "1201 bytes", packet: initial4().With(payload(long)), want: quicAsks, bytes: 1201},
		{name: "1199 bytes", packet: initial4().With(payload(short)), want: quicOther},
		{name: "nothing", packet: initial4().With(payload(nil)), want: quicOther},
		{name: "UDP length of 1199 bytes", packet: lying(initial4(), 1207), want: quicOther},
		{name: "bytes behind the UDP length", packet: lying(initial4().With(payload(long)), 1208), want: quicAsks},
		{name: "UDP length longer than the packet", packet: lying(initial4(), 1209), want: quicOther},
		{name: "UDP length 0, IPv4", packet: lying(initial4(), 0), want: quicOther},
		{name: "UDP length 0, IPv6", packet: lying(initial6(), 0), want: quicAsks},
		{name: "UDP length 7, IPv6", packet: lying(initial6(), 7), want: quicOther},
		{name: "UDP length 8", packet: lying(initial4(), 8), want: quicOther},
	}
}

func quicNetworkRows() []quicRow {
	proto := func(p *tg.Packet) { p.Proto = 136 }
	rows := []quicRow{
		{name: "tagged", packet: initial4().With(tg.Tagged(tg.TPID8021Q)), want: quicAsks},
		{name: "tagged twice", packet: initial6().With(tg.Tagged(tg.TPID8021AD, tg.TPID8021Q)), want: quicAsks},
		{name: "IPv4 options", packet: initial4().With(func(p *tg.Packet) { p.IPv4Options = 40 }), want: quicAsks},
		{name: "behind extension headers", packet: initial6().With(tg.Behind(7, tg.ExtHeader{Proto: tg.DestOpts})), want: quicAsks},
		{name: "UDP-Lite", packet: initial4().With(proto), want: quicNoUDP},
		{name: "TCP", packet: syn4(), want: quicNoUDP},
	}
	for name, whole := range map[string]tg.Packet{"IPv4": initial4(), "IPv6": initial6()} {
		held, rest := whole.Split(64)
		cut, _ := whole.Split(8)
		inID, _ := whole.Split(16)
		rows = append(rows,
			quicRow{name: "first fragment with the header, " + name, packet: held, want: quicAsks},
			quicRow{name: "first fragment with the UDP header only, " + name, packet: cut, want: quicCut},
			quicRow{name: "first fragment that cuts an id, " + name, packet: inID, want: quicCut},
			quicRow{name: "later fragment, " + name, packet: rest, want: quicNoUDP},
		)
	}
	small, _ := initial4().With(payload(quicBytes(1199, tg.Initial(quicDCID, quicSCID)))).Split(8)
	jumbo, _ := initial6().With(udpLength(0)).Split(64)
	return append(rows,
		quicRow{name: "first fragment of too short a datagram", packet: small, want: quicOther},
		quicRow{name: "first fragment with UDP length 0, IPv6", packet: jumbo, want: quicAsks, bytes: 0xffff},
	)
}

// Good Initials with one mutation each, read by all readers.
func TestQuicShape(t *testing.T) {
	l := newQuicLab(t)
	for _, r := range slices.Concat(quicHeaderRows(), quicLengthRows(), quicNetworkRows()) {
		t.Run(r.name, func(t *testing.T) {
			l.t = t
			got := l.readRow(r)
			if want := max(r.bytes, 1200); got.shape != r.want || r.want == quicAsks && got.datagram.Bytes != want {
				t.Errorf("%v, want shape %#x, %d bytes", got, r.want, want)
			}
		})
	}
}

// readRow reads a row's frame. Tags are for readers with a link header only.
func (l *quicLab) readRow(r quicRow) frame {
	if len(r.packet.VLANs) > 0 {
		return l.readBy(&l.objects, l.objects.QuicFrameXdp, r.packet.Bytes())
	}
	return l.read(r.packet.Bytes())
}

// Cut at every byte a datagram is never taken for one that asks, and one whose header is cut off in a
// first fragment is told as such, up to the last byte that has to be read.
func TestQuicTruncated(t *testing.T) {
	l := newQuicLab(t)
	for _, whole := range []tg.Packet{initial4(), initial6(), initial4(dcid(make([]byte, 20)), scid(make([]byte, 20)))} {
		ids := len(quicDCID)
		if whole.Payload[5] == 20 {
			ids = 20
		}
		read := max(6+20, 6+ids+1+24) // the header as it is loaded
		for n := range 1200 {
			frame := whole.With(tg.Cut(8 + n)).Bytes() // the UDP length promises more
			if got := l.read(frame); got.shape != quicOther {
				t.Fatalf("cut to %d bytes: %v", n, got)
			}
			want := quicCut
			if n >= read {
				want = quicAsks
			}
			frame = whole.With(tg.Cut(8+n), tg.Fragmented(0, true)).Bytes()
			if got := l.read(frame); got.shape != want {
				t.Fatalf("first fragment with %d bytes: %v, want shape %d", n, got, want)
			}
		}
		for n := range 8 {
			if got := l.read(whole.With(tg.Cut(n)).Bytes()); got.shape != quicNoUDP {
				t.Fatalf("UDP header of %d bytes: %v", n, got)
			}
		}
		frame := whole.Bytes()
		for n := 14; n < len(frame); n++ { // lost bytes: the IP length promises more
			if got := l.readBy(&l.objects, l.objects.QuicFrameXdp, frame[:n]); got.shape != quicNoUDP {
				t.Fatalf("frame of %d bytes: %v", n, got)
			}
		}
	}
}

// What of one connection a repeat or an answer may change leaves it the same connection.
func TestQuicKeyOfOneConnection(t *testing.T) {
	l := newQuicLab(t)
	for family, initial := range map[string]func(...func(*tg.QUICPacket)) tg.Packet{"IPv4": initial4, "IPv6": initial6} {
		base := l.read(initial().Bytes()).key
		same := map[string]tg.Packet{
			"again":         initial(),
			"packet number": initial(first(tg.QUICInitialV1)), "fixed bit": initial(first(0x83)),
			"version": initial(version(tg.QUICv2), first(tg.QUICInitialV2)), "0-RTT": initial(first(tg.QUICZeroRTTV1), token(nil)),
			"hop limit": initial().With(func(p *tg.Packet) { p.TTL = 3 }),
			"payload":   initial().With(func(p *tg.Packet) { p.Payload[100] = 1 }),
		}
		for name, p := range same {
			if got := l.read(p.Bytes()).key; got != base {
				t.Errorf("%s %s: key %+v, want %+v", family, name, got, base)
			}
		}
		longer := l.read(initial(dcid(append(slices.Clone(quicDCID), 0))).Bytes()).key
		if longer.Connection != base.Connection || longer.Bucket != base.Bucket || longer.Dcid == base.Dcid {
			t.Errorf("%s: destination id with a zero more has key %+v, want another id than %+v", family, longer, base)
		}
		longer = l.read(initial(scid(append(slices.Clone(quicSCID), 0))).Bytes()).key
		if longer.Connection == base.Connection {
			t.Errorf("%s: source id with a zero more is the same connection", family)
		}
	}
	if l.read(initial4().Bytes()).key.Connection == l.read(initial6().Bytes()).key.Connection {
		t.Error("one connection in both families")
	}
}

// Every bit of addresses, ports and ids counts: of the destination id for the id alone, of the others
// for the connection. A tag of 14 bits may be the same by chance under one secret, and not under three.
func TestQuicKeyTellsEveryBit(t *testing.T) {
	l := newQuicLab(t)
	ids := []func(*tg.QUICPacket){dcid([]byte("a destination id of ")), scid([]byte("and a source id of t"))}
	for _, p := range []tg.Packet{initial4(ids...), initial6(ids...)} {
		frame := p.Bytes()
		udp := len(frame) - 1208
		addresses, long := udp-8, 8
		if p.Src.Is6() {
			addresses, long = udp-32, 32
		}
		connection := func(a, b quicTestQuicKey) bool { return a.Connection == b.Connection && a.Bucket == b.Bucket }
		id := func(a, b quicTestQuicKey) bool { return !connection(a, b) || a.Dcid == b.Dcid }
		l.everyBit(frame, addresses, long, "addresses", connection)
		l.everyBit(frame, udp, 4, "ports", connection)
		l.everyBit(frame, udp+8+6, 20, "destination id", id)
		l.everyBit(frame, udp+8+6+20+1, 20, "source id", connection)
	}
}

// everyBit wants no bit of a stretch to leave the key the same under three secrets.
func (l *quicLab) everyBit(frame []byte, from, count int, what string, same func(a, b quicTestQuicKey) bool) {
	l.t.Helper()
	key := func(b []byte) quicTestQuicKey { return l.readBy(&l.objects, l.objects.QuicFrameXdp, b).key }
	for bit := range count * 8 {
		other := bytes.Clone(frame)
		other[from+bit/8] ^= 1 << (bit % 8)
		met := 0
		for secret := range uint64(3) {
			l.secret(secret)
			if same(key(frame), key(other)) {
				met++
			}
		}
		if met == 3 {
			l.t.Errorf("%s: bit %d does not count", what, bit)
		}
	}
}

// What is behind the longest id that a version has is not read.
func TestQuicKeyOfLongIDs(t *testing.T) {
	l := newQuicLab(t)
	long := make([]byte, 30)
	base := l.read(initial4(dcid(long)).Bytes()).key
	long[20] = 1
	if got := l.read(initial4(dcid(long)).Bytes()).key; got != base {
		t.Errorf("key %+v, want %+v", got, base)
	}
}

func TestQuicToken(t *testing.T) {
	l := newQuicLab(t)
	long := make([]byte, 200)
	for name, c := range map[string]struct {
		packet tg.Packet
		want   bool
	}{
		"none":                        {initial4(), false},
		"one byte":                    {initial4(token(long[:1])), true},
		"200 bytes":                   {initial4(token(long)), true},
		"version 2":                   {initial4(version(tg.QUICv2), first(tg.QUICInitialV2), token(long)), true},
		"type of version 1 in 2":      {initial4(version(tg.QUICv2), token(long)), false},
		"type of version 2 in 1":      {initial4(first(tg.QUICInitialV2), token(long)), false},
		"0-RTT, which has a length":   {initial4(first(tg.QUICZeroRTTV1), token(nil)), false},
		"no ids":                      {initial4(dcid(nil), scid(nil), token(long)), true},
		"longest ids":                 {initial4(dcid(long[:20]), scid(long[:20]), token(long)), true},
		"longest ids, none":           {initial4(dcid(long[:20]), scid(long[:20])), false},
		"source id longer than it is": {initial4(scid(long[:21]), token(long)), false},
	} {
		if got := l.read(c.packet.Bytes()).key.Token == 1; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Ids that would meet under every secret if a word were folded once: the top bit of a word turned, and
// in the next word the two bits that it turns.
func TestQuicKeyHasNoCollisionsForAllSecrets(t *testing.T) {
	l := newQuicLab(t)
	r := rand.New(rand.NewPCG(testSeed(t), 9))
	met := 0
	const secrets = 200
	for range secrets {
		l.secret(r.Uint64())
		id := make([]byte, 20)
		for i := range id {
			id[i] = byte(r.Uint32())
		}
		other := slices.Clone(id)
		for _, at := range []int{0, 8, 12} {
			other[at] ^= 0x80
		}
		one, two := l.read(initial4(dcid(id)).Bytes()).key, l.read(initial4(dcid(other)).Bytes()).key
		if one.Dcid == two.Dcid {
			met++
		}
		one, two = l.read(initial4(scid(id)).Bytes()).key, l.read(initial4(scid(other)).Bytes()).key
		if one.Connection == two.Connection {
			met++
		}
	}
	if met > 1 {
		t.Errorf("%d of %d pairs met", met, 2*secrets)
	}
}
