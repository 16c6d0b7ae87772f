// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/synward/synward/pkg/policy"
)

// A login is more than a SYN: under three packets a day nobody gets as far as the key exchange, and who is logged
// in is cut off.
func TestBugGuardLetsALimitOfPacketsLockOut(t *testing.T) {
	for _, kind := range []policy.Kind{policy.KindPackets, policy.KindBytesIn} {
		count := uint64(3)
		if kind == policy.KindBytesIn {
			count = policy.FullPacket
		}
		p := &policy.Policy{Services: []policy.Service{listening("ssh", policy.TCP, 443, 443, aDay(kind, policy.PerSource, count))}}
		p.Normalize()
		must(t, p.Validate())
		if err := GuardPolicy([]Operator{{Peer: client4, Local: server4}}, p, nil); err == nil {
			t.Errorf("%d %s a day: three logins within a minute are taken to go through", count, kind)
		}
	}
}
