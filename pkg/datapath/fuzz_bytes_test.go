// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"slices"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// mutateBytes changes a built frame: what it says of itself need not be true any more.
func (g *generator) mutateBytes(frame []byte) []byte {
	changes := byteMutations
	if g.hiding {
		changes = changes[:hidingMutations]
	}
	if len(frame) < 14 {
		return append(frame, make([]byte, 14-len(frame))...)
	}
	return pick(g, changes...)(g, frame)
}

// hidingMutations is how many of byteMutations leave most of a frame as it is.
const hidingMutations = 9

var byteMutations = []func(g *generator, frame []byte) []byte{
	(*generator).nudgeLength, (*generator).nudgeLength, (*generator).agreeLength, (*generator).setHeaderByte,
	(*generator).setProto, (*generator).extend, (*generator).shorten, (*generator).truncate, (*generator).flipHeaderBit,
	(*generator).flipBit, (*generator).flipBit, (*generator).setByte, (*generator).repeat, (*generator).dropBytes,
}

// network is where the IP header begins, behind any tags.
func network(frame []byte) int {
	at := 12
	for at+6 <= len(frame) && slices.Contains([]int{tg.TPID8021Q, tg.TPID8021AD}, word(frame, at)) {
		at += 4
	}
	return at + 2
}

// lengthAt is where the IP header has its length field, and from where that counts; ok is false where
// there is none.
func lengthAt(frame []byte) (field, from int, ok bool) {
	at := network(frame)
	field, from = at+2, at
	if at < len(frame) && frame[at]>>4 == 6 {
		field, from = at+4, at+40
	}
	return field, from, field+2 <= len(frame)
}

// nudgeLength makes the IP length field wrong by some.
func (g *generator) nudgeLength(frame []byte) []byte {
	if field, _, ok := lengthAt(frame); ok {
		by := pick(g, 1, -1, 2, -2, 4, 8, -8, 14, -20, -40, g.IntN(100)-50)
		binary.BigEndian.PutUint16(frame[field:], uint16(word(frame, field)+by))
	}
	return frame
}

// agreeLength makes the IP length field say what is there, or 0.
func (g *generator) agreeLength(frame []byte) []byte {
	if field, from, ok := lengthAt(frame); ok {
		length := max(0, len(frame)-from)
		if g.oneIn(3) {
			length = 0
		}
		binary.BigEndian.PutUint16(frame[field:], uint16(length))
	}
	return frame
}

// headers is how much of a frame is taken for headers.
func (g *generator) header(frame []byte) int { return 12 + g.IntN(min(len(frame)-12, 120)) }

// setHeaderByte sets a byte of the headers to a value that means something in many places.
func (g *generator) setHeaderByte(frame []byte) []byte {
	frame[g.header(frame)] = pick[byte](g, 0, 1, 2, 5, 8, 0x45, 0x46, 0x4f, 0x60, 0x81, 0x88, 0xff, g.proto())
	return frame
}

// setProto names another protocol in the IP header.
func (g *generator) setProto(frame []byte) []byte {
	at := network(frame)
	field := at + 9
	if at < len(frame) && frame[at]>>4 == 6 {
		field = at + 6
	}
	if field < len(frame) {
		frame[field] = g.proto()
	}
	return frame
}

func (g *generator) extend(frame []byte) []byte { return append(frame, g.bytes(pick(g, 4, 64))...) }

// truncate cuts a frame, mostly within its headers.
func (g *generator) truncate(frame []byte) []byte {
	return frame[:14+g.IntN(min(len(frame)-14, pick(g, 100, 3000))+1)]
}

// shorten cuts a frame within its headers as its sender would: the length field agrees.
func (g *generator) shorten(frame []byte) []byte {
	frame = frame[:14+g.IntN(min(len(frame)-14, 120)+1)]
	if field, from, ok := lengthAt(frame); ok {
		binary.BigEndian.PutUint16(frame[field:], uint16(max(0, len(frame)-from)))
	}
	return frame
}

func (g *generator) flipHeaderBit(frame []byte) []byte {
	frame[g.header(frame)] ^= 1 << g.IntN(8)
	return frame
}

func (g *generator) flipBit(frame []byte) []byte {
	frame[g.IntN(len(frame))] ^= 1 << g.IntN(8)
	return frame
}

func (g *generator) setByte(frame []byte) []byte {
	frame[g.IntN(len(frame))] = byte(g.Uint32())
	return frame
}

// repeat puts a part of the frame in once more: a header within a header.
func (g *generator) repeat(frame []byte) []byte {
	from := g.header(frame)
	part := slices.Clone(frame[from:min(len(frame), from+pick(g, 4, 8, 20, 40))])
	return slices.Insert(frame, from, part...)
}

func (g *generator) dropBytes(frame []byte) []byte {
	from := g.header(frame)
	out := slices.Delete(frame, from, min(len(frame), from+pick(g, 1, 2, 4, 8, 20)))
	return append(out, make([]byte, max(0, 14-len(out)))...)
}
