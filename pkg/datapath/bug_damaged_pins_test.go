// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/synward/synward/pkg/policy"
)

// What is read from pinned maps is input: `check` says that they are damaged, and does not fall over.
func TestBugCheckOfDamagedPinsPanics(t *testing.T) {
	l := newProgramLab(t, frozen{linkHeader: true})
	for name, damage := range map[string]func(){
		"first limit":   func() { l.service(0).FirstLimit = ^uint32(0) - 1 },
		"limits":        func() { l.service(0).LimitCount = 1 << 30 },
		"global limits": func() { l.head().GlobalFirst, l.head().GlobalCount = 1<<31, 1 },
		"port": func() {
			l.tables.Ports[l.slot()].Listen[443] = 0x1ff
		},
	} {
		t.Run(name, func(t *testing.T) {
			l.t = t
			for range 3 { // the last slot is where the tables end
				if l.slot() == 3 {
					break
				}
				must(t, l.Apply(ApplyOptions{Policy: policy.Default(onceADay(uint64(l.live().generation)))}))
			}
			must(t, l.Apply(ApplyOptions{Policy: policy.Default(onceADay(7))}))
			for l.slot() != 3 {
				must(t, l.Apply(ApplyOptions{Policy: policy.Default(onceADay(7))}))
			}
			damage()
			defer func() {
				if r := recover(); r != nil {
					t.Errorf("panic: %v", fmt.Sprint(r))
				}
			}()
			v, err := l.CheckAt(client4.Addr(), netip.AddrPortFrom(server4.Addr(), 443))
			t.Log(v, err)
		})
	}
}
