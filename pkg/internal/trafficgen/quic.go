// SPDX-License-Identifier: Apache-2.0

package trafficgen

import (
	"net/netip"
	"slices"
)

// The first byte of a QUIC packet with a long header: header form, fixed bit and type, the rest zero. Version 2
// gives the types other numbers (RFC 9369 section 3.2).
const (
	QUICInitialV1   = 0xc0
	QUICZeroRTTV1   = 0xd0
	QUICHandshakeV1 = 0xe0
	QUICRetryV1     = 0xf0
	QUICRetryV2     = 0xc0
	QUICInitialV2   = 0xd0
	QUICZeroRTTV2   = 0xe0
	QUICHandshakeV2 = 0xf0
)

// QUICDraft29 is the last version before RFC 9000 that was in wide use.
const QUICDraft29 = 0xff00001d

// QUICPacket is a QUIC packet with a long header (RFC 9000 section 17.2), not encrypted: it has the shape by which
// packets are told, and no server can read it. No id is longer than 255 bytes.
type QUICPacket struct {
	First      byte
	Version    uint32
	DCID, SCID []byte
	// Token is written where not nil, empty or not, and belongs to an Initial only; at most 16383 bytes.
	Token []byte
	// Payload is how many bytes follow the header, packet number included; QUICDatagram fills the last packet up.
	Payload int
}

// Initial is a client's first packet of version 1, with an id of its own and no token.
func Initial(dcid, scid []byte) QUICPacket {
	return QUICPacket{First: QUICInitialV1 | 3, Version: QUICv1, DCID: dcid, SCID: scid, Token: []byte{}}
}

func (q QUICPacket) header() []byte {
	b := be.AppendUint32([]byte{q.First}, q.Version)
	b = append(append(b, uint8(len(q.DCID))), q.DCID...)
	b = append(append(b, uint8(len(q.SCID))), q.SCID...)
	if q.Token != nil {
		b = append(quicInteger(b, len(q.Token)), q.Token...)
	}
	return b
}

// quicInteger appends a variable-length integer of one or two bytes (RFC 9000 section 16).
func quicInteger(b []byte, n int) []byte {
	if n < 64 {
		return append(b, uint8(n))
	}
	return be.AppendUint16(b, 0x4000|uint16(n))
}

// QUICDatagram is the payload of a UDP datagram with these packets in it, the last of which fills it up to size.
func QUICDatagram(size int, packets ...QUICPacket) []byte {
	var b []byte
	for i, q := range packets {
		b = append(b, q.header()...)
		payload := q.Payload
		if i == len(packets)-1 {
			payload = max(0, size-len(b)-2)
		}
		b = be.AppendUint16(b, 0x4000|uint16(payload))
		b = append(b, make([]byte, payload)...)
	}
	return slices.Clone(b[:min(len(b), size)])
}

// QUICFrame is a frame with such a datagram of 1200 bytes.
func QUICFrame(src, dst netip.AddrPort, packets ...QUICPacket) Packet {
	return Datagram(src, dst, QUICDatagram(quicDatagram, packets...))
}
