// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/synward/synward/pkg/policy"
)

// UDP datagrams are no connections: a service on 443/tcp and 443/udp with one limit of new connections counts
// SYNs, and no datagram uses its burst up or is dropped by it.
func TestBugPlainServiceCountsDatagramsAsConnections(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	s := listening("dns", policy.TCP, 443, 443, aDay(policy.KindNew, policy.PerSource, 2))
	s.Listen = append(s.Listen, policy.Listen{Proto: policy.UDP, First: 443, Last: 443})
	l.rules(nil, func(p *policy.Policy) { p.Services = []policy.Service{s} })
	l.emptyMeters()
	for n := range 5 {
		if v := l.run(hookXDP, datagram4().Bytes(), nil).verdict; v != xdpPass {
			t.Errorf("datagram %d was dropped by a limit of new connections", n)
		}
	}
	if v := l.run(hookXDP, syn4().Bytes(), nil).verdict; v != xdpPass {
		t.Error("the first SYN was dropped: datagrams had used up its burst")
	}
}
