// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/internal/testenv"
	tg "github.com/synward/synward/pkg/internal/trafficgen"
)

// promises are those of listeners under every setting that matters.
func promises() map[string]challengeTestPromise {
	all := map[string]challengeTestPromise{"timestamps=2": fullPromise()}
	for name, change := range map[string]func(p *challengeTestPromise){
		"timestamps=1":     func(p *challengeTestPromise) { p.Options = 0 },
		"no sack":          func(p *challengeTestPromise) { p.Sack = 0 },
		"no scaling":       func(p *challengeTestPromise) { p.Scaling = 0 },
		"small and scaled": func(p *challengeTestPromise) { p.Window, p.Wscale = 288, 0 },
	} {
		p := fullPromise()
		change(&p)
		all[name] = p
	}
	return all
}

// Every option mix, under every setting, on every hook: the bytes and the cookie.
func TestChallengeAnswersEveryOption(t *testing.T) {
	l := newChallengeLab(t)
	for setting, promise := range promises() {
		l.promises(promise)
		for mix, options := range synOptionMixes() {
			for _, base := range []tg.Packet{syn4(), syn6()} {
				p := base.With(func(p *tg.Packet) { p.TCPOptions = options })
				for _, h := range resetHooks {
					l.mustAnswer(h, p, promise, ebpf.RunOptions{}, setting+", "+mix)
				}
			}
		}
	}
}

// What stands around the TCP header: tags, IP options, extension headers, data, padding.
func TestChallengeAnswersEveryShape(t *testing.T) {
	l := newChallengeLab(t)
	promise := fullPromise()
	l.promises(promise)
	for name, p := range resetShapes() {
		if strings.Contains(name, "of data") && !strings.Contains(name, " 0 of data") && !strings.Contains(name, " 3 of data") {
			continue
		}
		for _, tags := range resetTags {
			p := p.With(tg.Tagged(tags...))
			for _, h := range resetHooks {
				if h == resetL3 && tags != nil {
					continue
				}
				l.mustAnswer(h, p, promise, ebpf.RunOptions{}, fmt.Sprintf("%s, tags %x", name, tags))
			}
		}
	}
}

// Options that are cut off, overlong or nonsense end the list, as they do in the kernel.
func TestChallengeReadsBadOptions(t *testing.T) {
	l := newChallengeLab(t)
	l.promises(fullPromise())
	for name, options := range map[string][]byte{
		"length 0": {8, 0, 1, 1}, "length 1": {8, 1, 1, 1}, "beyond the header": {1, 1, 8, 10}, "ends in a kind": {1, 1, 1, 8},
		"short timestamps": {8, 9, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1}, "long timestamps": {8, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
		"end before": append([]byte{0, 0}, tg.Timestamps(1, 0)...), "unknown before": append([]byte{254, 4, 0, 0}, tg.NOP(4)...),
	} {
		p := syn4(func(p *tg.Packet) { p.TCPOptions = options })
		for _, h := range resetHooks {
			verdict, out, err := l.run(h, ebpf.RunOptions{Data: p.Bytes()})
			if answer := decodeTCP(out); err != nil || verdict != "answer" || answer == nil || len(answer.Contents) != 24 {
				t.Errorf("%s, %s: %s, %v, %x; want a SYN-ACK with MSS alone", h, name, verdict, err, out)
			}
		}
	}
}

func TestChallengeNeverAnswers(t *testing.T) {
	l := newChallengeLab(t)
	l.promises(fullPromise())
	for _, good := range []tg.Packet{syn4(), syn6()} {
		for name, mutate := range neverAnswered() {
			p := good.With(mutate)
			if p.Src.BitLen() != p.Dst.BitLen() {
				continue
			}
			for _, h := range resetHooks {
				if h == resetL3 && (strings.Contains(name, "MAC") || name == "to broadcast") {
					continue
				}
				if verdict, _, err := l.run(h, ebpf.RunOptions{Data: p.Bytes()}); err != nil || verdict != "drop" {
					t.Errorf("%s %s: %s, %v; want drop", h, name, verdict, err)
				}
			}
		}
	}
}

// A checksum that the hardware made of the whole packet stays one. An answer of another size loses it to the kernel.
func TestChallengeKeepsChecksumComplete(t *testing.T) {
	l := newChallengeLab(t)
	promise := fullPromise()
	l.promises(promise)
	_, _, err := l.run(resetTC, ebpf.RunOptions{Data: syn4().Bytes(), Flags: checksumComplete})
	if errors.Is(err, unix.EINVAL) && !kernelFrom(t, 6, 18) {
		t.Skip("Program.Run makes CHECKSUM_COMPLETE on Linux 6.18, if not before")
	}
	for _, p := range []tg.Packet{syn4(), syn6()} {
		for seq := range uint32(50) {
			p.Seq = seq * 0x01234567
			l.mustAnswer(resetTC, p, promise, ebpf.RunOptions{Flags: checksumComplete}, "complete")
		}
	}
}

func TestChallengeInSeveralBuffers(t *testing.T) {
	l := newChallengeLab(t)
	promise := fullPromise()
	l.promises(promise)
	for _, p := range []tg.Packet{
		syn4(func(p *tg.Packet) { p.Payload = make([]byte, 8900) }), syn6(tg.Behind(5, tg.ExtHeader{Proto: tg.DestOpts, Len: 2048})),
	} {
		l.mustAnswer(resetXDP, p, promise, ebpf.RunOptions{}, "many pages")
	}
}

func TestChallengeVerifierCost(t *testing.T) {
	testenv.RequireRoot(t)
	for _, h := range resetHooks {
		coll, err := loadChallenge(h, 0, false, ebpf.LogLevelStats)
		must(t, err)
		defer coll.Close()
		log := coll.Programs[challengeEntry(h)].VerifierLog
		found := processed.FindStringSubmatch(log)
		if found == nil {
			t.Fatalf("the kernel did not say what it cost: %q", log)
		}
		t.Logf("%s: %s instructions, %q", h, found[1], regexp.MustCompile("stack depth.*").FindString(log))
		if n, _ := strconv.Atoi(found[1]); n > 40_000 {
			t.Errorf("%s: %d instructions", h, n)
		}
	}
}
