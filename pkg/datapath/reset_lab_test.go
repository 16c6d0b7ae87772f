// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

//go:generate go tool bpf2go -target bpfel -output-suffix _test resetTest ../../bpf/tests/reset_test.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu

const (
	xdpTX      = 3
	tcRedirect = 7
)

// checksumComplete gives the skb of a test run such a checksum and fails the run (EBADMSG) if the
// program lets it go wrong.
const checksumComplete = 1 << 2

// resetLab is the test programs that answer every SYN.
type resetLab struct {
	t  *testing.T
	on map[resetHook]*ebpf.Program
}

// resetHook is one of the ways into them.
type resetHook string

const (
	resetXDP resetHook = "xdp"
	resetTC  resetHook = "tc"
	resetL3  resetHook = "tc without link header"
)

var resetHooks = []resetHook{resetXDP, resetTC, resetL3}

func newResetLab(t *testing.T) *resetLab {
	t.Helper()
	testenv.RequireRoot(t)
	l := &resetLab{t: t, on: map[resetHook]*ebpf.Program{}}
	for _, h := range resetHooks {
		var err error
		l.on[h], err = loadReset(h, 0, 0)
		must(t, err)
		t.Cleanup(func() { l.on[h].Close() })
	}
	return l
}

// loadReset is a program that answers SYNs to a port, 0 for all, with RST.
func loadReset(h resetHook, port uint16, level ebpf.LogLevel) (*ebpf.Program, error) {
	spec, err := loadResetTest()
	if err != nil {
		return nil, err
	}
	err = errors.Join(spec.Variables["has_link_header"].Set(h != resetL3), spec.Variables["refused_port"].Set(port))
	if err != nil {
		return nil, err
	}
	opts := &ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: level}}
	if h == resetXDP {
		var only struct {
			XDP *ebpf.Program `ebpf:"answer_xdp"`
		}
		err = spec.LoadAndAssign(&only, opts)
		return only.XDP, err
	}
	var only struct {
		TC *ebpf.Program `ebpf:"answer_tc"`
	}
	err = spec.LoadAndAssign(&only, opts)
	return only.TC, err
}

// AttachReset puts such a program on an interface of the calling thread's namespace until cleanup.
func AttachReset(t *testing.T, ifname string, mode Mode, hasLink bool, port uint16) error {
	h := resetXDP
	switch {
	case mode != ModeTC:
	case hasLink:
		h = resetTC
	default:
		h = resetL3
	}
	prog, err := loadReset(h, port, 0)
	if err != nil {
		return err
	}
	defer prog.Close()
	nl, err := netlink.LinkByName(ifname)
	if err != nil {
		return err
	}
	for _, h := range mode.hooks() {
		l, _, err := hookUp(h, mode, nl, prog)
		if l != nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		// Without tcx there is clsact, which the namespace takes with it.
		if err == nil || h != hookTCX || kernelFrom(t, 6, 6) {
			return err
		}
	}
	return nil
}

// run gives the verdict in one word, "answer", "drop" or "pass", and the frame behind it.
func (l *resetLab) run(h resetHook, opts ebpf.RunOptions) (verdict string, out []byte, err error) {
	l.t.Helper()
	opts.DataOut = make([]byte, len(opts.Data)+256)
	code, err := l.on[h].Run(&opts)
	for errors.Is(err, unix.EINTR) {
		code, err = l.on[h].Run(&opts)
	}
	if err != nil {
		return "", nil, err
	}
	words := map[uint32]string{xdpTX: "answer", xdpDrop: "drop", xdpPass: "pass"}
	if h != resetXDP {
		words = map[uint32]string{tcRedirect: "answer", tcShot: "drop", tcUnspec: "pass"}
	}
	return words[code], opts.DataOut, nil
}

// mustAnswer wants the frame that p makes to become the answer to it.
func (l *resetLab) mustAnswer(h resetHook, p tg.Packet, opts ebpf.RunOptions, what string) {
	l.t.Helper()
	if opts.Data == nil {
		opts.Data = p.Bytes()
	}
	verdict, out, err := l.run(h, opts)
	want := AnswerTo(l.t, p)
	if h == resetL3 {
		want = slices.Concat(opts.Data[:14], want[14:])
	}
	if err != nil || verdict != "answer" || !bytes.Equal(out, want) {
		l.t.Errorf("%s, %s: %s, %v: %d bytes\n%x to\n%x, want\n%x", h, what, verdict, err, len(opts.Data), opts.Data, out, want)
	}
	if len(out) > len(opts.Data) {
		l.t.Errorf("%s, %s: %d bytes answer %d", h, what, len(out), len(opts.Data))
	}
}

// AnswerTo is what RFC 9293 section 3.10.7.1 wants, made by another library.
func AnswerTo(t *testing.T, p tg.Packet) []byte {
	t.Helper()
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(p.DstPort), DstPort: layers.TCPPort(p.SrcPort),
		Ack: p.Seq + 1 + uint32(len(p.Payload)), ACK: true, RST: true,
	}
	return answerFrame(t, p, tcp, nil, resetXDP)
}

// kernelFrom tells whether the running kernel is that version or newer.
func kernelFrom(t *testing.T, major, minor int) bool {
	t.Helper()
	var have [2]int
	_, err := fmt.Sscanf(kernelSeries(t), "%d.%d", &have[0], &have[1])
	must(t, err)
	return slices.Compare(have[:], []int{major, minor}) >= 0
}
