// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"testing"
	"time"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// A slow limit of bytes of a whole service: amount * cost is more than 64 bits and wraps around.
func TestBugSlowByteLimitOfAServiceOverflows(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, c := range []struct {
		burst uint64
		size  int
	}{{2000, 1514}} {
		l.rules(nil, func(p *policy.Policy) {
			p.Services = []policy.Service{listening("game", policy.UDP, 443, 443, policy.Limit{
				Kind: policy.KindBytesIn, Per: policy.PerService, Burst: c.burst, Rate: policy.Rate{Count: c.burst, Period: 24 * time.Hour},
			})}
		})
		l.emptyMeters()
		frame := tg.Datagram(client4, server4, make([]byte, c.size-14-20-8)).Bytes()
		var admitted uint64
		for range 1000 {
			if v := l.run(hookTCX, frame, nil).verdict; v == tcUnspec {
				admitted += uint64(len(frame))
			}
		}
		if most := c.burst + c.burst/1000; admitted > most {
			t.Errorf("%d bytes a day: %d admitted in a moment", c.burst, admitted)
		}
	}
}

// A byte that takes hours to come back is 2^64 of the smallest fractions that a byte is counted in, so there was "limit 1:
// invalid" for what the policy may say: down to a byte in 57 hours, by a burst of one full packet that takes ten years.
func TestBugVerySlowByteLimitOfAServiceIsRefused(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for _, hours := range []time.Duration{6, 7, 10, 57} {
		l.rules(nil, func(p *policy.Policy) {
			p.Services = []policy.Service{listening("game", policy.UDP, 443, 443, policy.Limit{
				Kind: policy.KindBytesIn, Per: policy.PerService, Burst: policy.FullPacket,
				Rate: policy.Rate{Count: 1, Period: hours * time.Hour},
			})}
		})
		l.emptyMeters()
		frame := tg.Datagram(client4, server4, make([]byte, 700-14-20-8)).Bytes()
		for n, want := range []uint32{tcUnspec, tcUnspec, tcShot, tcShot} {
			if got := l.run(hookTCX, frame, nil).verdict; got != want {
				t.Errorf("a byte in %d hours, packet %d: verdict %d, want %d", hours, n+1, got, want)
			}
		}
	}
}

// One buffer that GRO made of many packets: the whole of it is charged, so that what follows waits for as long.
func TestBugMergedBuffersExceedALimitOfPackets(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	l.rules(nil, func(p *policy.Policy) {
		p.Services = []policy.Service{listening("web", policy.TCP, 443, 443, policy.Limit{
			Kind: policy.KindPackets, Per: policy.PerSource, Burst: 10, Rate: policy.Rate{Count: 100, Period: time.Second},
		})}
	})
	l.emptyMeters()
	frame := segment4(tg.ACK).Bytes()
	begin, admitted := time.Now(), uint64(0)
	for time.Since(begin) < 2*time.Second {
		if l.run(hookTCX, frame, segmentsContext(45)).verdict == tcUnspec {
			admitted += 45
		}
	}
	most := 45 + 10 + uint64(time.Since(begin).Seconds()*100) // one buffer may be above
	if admitted > most {
		t.Errorf("100 packets a second: %d admitted in two, want at most %d", admitted, most)
	}
}

// A buffer of a virtual machine, or of a NIC of one, says how large its segments are and not how many.
func TestBugSegmentsOfAGuestAreCountedAsOnePacket(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	l.rules(nil)
	frame := segment4(tg.ACK).With(func(p *tg.Packet) { p.Payload = make([]byte, 2*1448) }).Bytes()
	context := make([]byte, 192)
	binary.NativeEndian.PutUint32(context[176:], 1448) // gso_size
	count := func() uint64 {
		all, err := l.ends(slotOf(hookTCX))
		must(t, err)
		return all.reason(limiterReasonREASON_ESTABLISHED)
	}
	before := count()
	l.run(hookTCX, frame, context)
	if got := count() - before; got != 2 {
		t.Errorf("2 segments of 1448 bytes counted as %d packets", got)
	}
}
