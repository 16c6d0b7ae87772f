// SPDX-License-Identifier: Apache-2.0

package trafficgen

import (
	"bytes"
	"testing"
)

func TestQUICDatagram(t *testing.T) {
	dcid, scid := []byte("12345678"), []byte("abc")
	q := Initial(dcid, scid)
	b := QUICDatagram(1200, q)
	want := append([]byte{0xc3, 0, 0, 0, 1, 8}, "12345678\x03abc\x00"...)
	if len(b) != 1200 || !bytes.HasPrefix(b, want) {
		t.Errorf("%d bytes, begins with %x, want %x", len(b), b[:len(want)], want)
	}
	q.Token = make([]byte, 100)
	b = QUICDatagram(1200, q)
	if got := be.Uint16(b[18:]); got != 0x4064 {
		t.Errorf("length of a token of 100 bytes is %#x", got)
	}
	if got, want := int(be.Uint16(b[120:])), 0x4000|1200-122; got != want {
		t.Errorf("length of the packet is %#x, want %#x", got, want)
	}
}

func TestQUICDatagramWithTwoPackets(t *testing.T) {
	early := QUICPacket{First: QUICZeroRTTV1, Version: QUICv1, DCID: []byte("12345678"), Payload: 30}
	b := QUICDatagram(1300, early, Initial([]byte("12345678"), nil))
	second := 1 + 4 + 1 + 8 + 1 + 2 + 30
	if len(b) != 1300 || b[0] != QUICZeroRTTV1 || b[second] != QUICInitialV1|3 {
		t.Errorf("%d bytes, packets begin with %#x and %#x", len(b), b[0], b[second])
	}
	if got := QUICDatagram(10, early); len(got) != 10 {
		t.Errorf("%d bytes, want 10", len(got))
	}
}
