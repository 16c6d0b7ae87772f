// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	tg "github.com/synward/synward/pkg/internal/trafficgen"
	"github.com/synward/synward/pkg/policy"
)

// `over: reset` on a service that listens on tcp and quic: a QUIC Initial over the limit is dropped, and not answered
// by a TCP segment that is made of its bytes. The sender chooses the version, whose last byte is read as the length
// of a TCP header.
func TestBugQUICInitialIsAnsweredByTCPReset(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	s := listening("web", policy.TCP, 443, 443, aDay(policy.KindNew, policy.PerSource, 1, thatResets))
	s.Listen = append(s.Listen, policy.Listen{Proto: policy.QUIC, First: 443, Last: 443})
	l.rules(nil, func(p *policy.Policy) { p.Services = []policy.Service{s} })
	for _, h := range bothHooks {
		l.emptyMeters()
		for n := range byte(4) {
			frame := tg.QUIC(client4, server4, 0x6b3343cf, []byte{1, 2, 3, 4, 5, 6, 7, n}).Bytes()
			if v := l.run(h, frame, nil).verdict; v == xdpTX && h == hookXDP || v == tcRedirect && h != hookXDP {
				t.Errorf("%s: datagram %d was answered by a TCP RST", h, n)
			}
		}
	}
}
