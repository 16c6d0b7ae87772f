// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
)

//go:generate go tool bpf2go -target bpfel -type quic_shape -type quic_verdict -type quic_op -type quic_key_word -output-suffix _test quicTest ../../bpf/tests/quic_test.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu

// The answers of quic_parse, and of the test program for what is no UDP datagram.
const (
	quicOther = uint32(quicTestQuicShapeQUIC_OTHER)
	quicAsks  = uint32(quicTestQuicShapeQUIC_MAY_ASK)
	quicCut   = uint32(quicTestQuicShapeQUIC_CUT)
	quicNoUDP = uint32(0x1000)
)

// The answers of quic_seen, and what a step of the test program does.
const (
	quicNew     = uint32(quicTestQuicVerdictQUIC_NEW)
	quicKnown   = uint32(quicTestQuicVerdictQUIC_KNOWN)
	quicSee     = uint32(quicTestQuicOpQUIC_SEE)
	quicSeeNote = uint32(quicTestQuicOpQUIC_SEE_NOTE)
)

// The shape of the table; see bpf/quic.h.
const (
	quicWays    = 8
	quicBuckets = 65536
	quicUnit    = uint64(1) << 30 // ns
	quicLife    = uint64(9)       // units
)

// quicLab is quic.h in the kernel, with nothing attached.
type quicLab struct {
	t       testing.TB
	objects quicTestObjects
	spec    *ebpf.CollectionSpec
	steps   []quicTestQuicStep
	slots   []uint64
	// bare is for an interface without a link header; its maps are its own, but for the secret.
	bare quicTestObjects
}

func newQuicLab(t testing.TB) *quicLab {
	t.Helper()
	testenv.RequireRoot(t)
	l := &quicLab{t: t}
	var err error
	l.spec, err = loadQuicTest()
	must(t, err)
	if err := l.spec.LoadAndAssign(&l.objects, nil); err != nil {
		t.Fatalf("load: %+v", err)
	}
	t.Cleanup(func() { l.objects.Close() })
	l.loadBare()
	l.steps, l.slots = mapSlice[quicTestQuicStep](t, l.objects.QuicSteps), mapSlice[uint64](t, l.objects.QuicRecent)
	l.secret(1)
	return l
}

func (l *quicLab) loadBare() {
	l.t.Helper()
	spec := l.spec.Copy()
	must(l.t, spec.Variables["has_link_header"].Set(false))
	must(l.t, spec.LoadAndAssign(&l.bare, &ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{"quic_secrets": l.objects.QuicSecrets},
	}))
	l.t.Cleanup(func() { l.bare.Close() })
}

// mapSlice is an mmapable array as memory.
func mapSlice[V any](t testing.TB, m *ebpf.Map) []V {
	t.Helper()
	w, err := mapWords(m)
	must(t, err)
	t.Cleanup(func() { w.close() })
	var v V
	return unsafe.Slice((*V)(unsafe.Pointer(&w.all[0])), len(w.all)*8/int(unsafe.Sizeof(v)))
}

// secret draws the words that all is hashed under.
func (l *quicLab) secret(seed uint64) {
	l.t.Helper()
	r := rand.New(rand.NewPCG(seed, 8))
	var s quicTestQuicSecret
	for i := range s.Key {
		s.Key[i] = r.Uint64()
		if i >= int(quicTestQuicKeyWordQUIC_KEY_ODD1) {
			s.Key[i] |= 1
		}
	}
	must(l.t, l.objects.QuicSecrets.Put(uint32(0), s))
}

// frame is what quic.h makes of one frame.
type frame struct {
	shape    uint32
	datagram quicTestQuicDatagram
	key      quicTestQuicKey
}

func (f frame) String() string {
	return fmt.Sprintf("shape %#x of %d bytes, %d held", f.shape, f.datagram.Bytes, f.datagram.Held)
}

// read runs all readers on a frame and wants one answer of them.
func (l *quicLab) read(data []byte) frame {
	l.t.Helper()
	xdp := l.readBy(&l.objects, l.objects.QuicFrameXdp, data)
	skb := l.readBy(&l.objects, l.objects.QuicFrameSkb, data)
	bare := l.readBy(&l.bare, l.bare.QuicFrameSkb, data)
	if bare.shape != quicNoUDP {
		bare.datagram.Offset += xdp.datagram.Offset - bare.datagram.Offset // counts from the IP header
	}
	for name, got := range map[string]frame{"skb": skb, "skb without link header": bare} {
		if got != xdp {
			l.t.Errorf("%s reads %v with key %+v, xdp %v with key %+v", name, got, got.key, xdp, xdp.key)
		}
	}
	return xdp
}

func (l *quicLab) readBy(o *quicTestObjects, program *ebpf.Program, data []byte) (f frame) {
	l.t.Helper()
	l.run(program, data)
	must(l.t, o.FrameVerdict.Get(&f.shape))
	must(l.t, o.FrameDatagram.Get(&f.datagram))
	must(l.t, o.FrameKey.Get(&f.key))
	return f
}

func (l *quicLab) run(program *ebpf.Program, data []byte) {
	l.t.Helper()
	must(l.t, quicTryRun(program, data))
}

func quicTryRun(program *ebpf.Program, data []byte) error {
	for {
		verdict, err := program.Run(&ebpf.RunOptions{Data: data})
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && verdict == 0 && program.Type() == ebpf.XDP {
			err = io.ErrUnexpectedEOF // XDP_ABORTED
		}
		return err
	}
}

// take takes steps in order and returns their verdicts.
func (l *quicLab) take(steps ...quicTestQuicStep) []uint32 {
	l.t.Helper()
	out := make([]uint32, 0, len(steps))
	for len(steps) > 0 {
		n := copy(l.steps, steps)
		l.run(l.objects.QuicTakeSteps, quicJob(0, n, 1))
		for _, s := range l.steps[:n] {
			out = append(out, s.Verdict)
		}
		steps = steps[n:]
	}
	return out
}

// quicJob is the packet that tells the program which steps to take.
func quicJob(first, count, crew int) []byte {
	b := make([]byte, 64)
	for i, v := range []int{first, count, crew} {
		binary.NativeEndian.PutUint32(b[4*i:], uint32(v))
	}
	return b
}

// quicStep lets one datagram through that is new. connection and dcid are small numbers that stand for
// tags, in bucket 0.
func quicStep(connection, dcid, nowNs uint64) quicTestQuicStep {
	s := quicTestQuicStep{NowNs: nowNs, Op: quicSeeNote, Verdict: ^uint32(0)}
	s.Key.Connection, s.Key.Dcid = connection<<38, dcid&0x3fff<<24
	return s
}

// withToken makes the step's datagram an Initial with a token.
func withToken(s quicTestQuicStep) quicTestQuicStep {
	s.Key.Token = 1
	return s
}

// refused makes the step's datagram one that is not let through.
func refused(s quicTestQuicStep) quicTestQuicStep {
	s.Op = quicSee
	return s
}

func countNew(verdicts []uint32) (n int) {
	for _, v := range verdicts {
		if v == quicNew {
			n++
		}
	}
	return n
}

// TestQuicCost logs what quic.h costs the verifier, in the programs here, and wants it to stay small: the
// table alone (quic_take_steps), and with the parser (quic_frame_*, quic_live_xdp).
func TestQuicCost(t *testing.T) {
	l := newQuicLab(t)
	l.objects.Close()
	must(t, l.spec.LoadAndAssign(&l.objects, &ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	}))
	for name, p := range map[string]*ebpf.Program{
		"quic_frame_xdp": l.objects.QuicFrameXdp, "quic_frame_skb": l.objects.QuicFrameSkb,
		"quic_take_steps": l.objects.QuicTakeSteps, "quic_live_xdp": l.objects.QuicLiveXdp,
	} {
		found := processed.FindStringSubmatch(p.VerifierLog)
		if found == nil {
			t.Fatalf("%s: the kernel did not say what it cost: %q", name, p.VerifierLog)
		}
		count, err := strconv.Atoi(found[1])
		must(t, err)
		t.Logf("%s: %d instructions, %q", name, count, stackDepth.FindString(p.VerifierLog))
		if count > 30_000 {
			t.Errorf("%s takes the verifier %d instructions", name, count)
		}
	}
}
