// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// A rollback goes to the policy that was in force before. One that a killed command wrote and never put in force
// is none, and one whose time was over unconfirmed is what the operator has just been saved from.
func TestRollbackSkipsWhatNeverHeld(t *testing.T) {
	for name, leave := range map[string]func(b *bench, risky *policy.Policy){
		"killed before the flip": func(b *bench, risky *policy.Policy) {
			b.change(func(i *datapath.Instance) error { i.WriteHalfway(b.t, risky); return nil })
		},
		"never confirmed": func(b *bench, risky *policy.Policy) {
			b.change(func(i *datapath.Instance) error {
				return i.Apply(datapath.ApplyOptions{Policy: risky, Confirm: time.Second})
			})
			b.mustLapse()
			b.change(func(*datapath.Instance) error { return nil }) // else that is what a rollback goes back from
		},
		"taken back": func(b *bench, risky *policy.Policy) {
			b.change(func(i *datapath.Instance) error {
				err := i.Apply(datapath.ApplyOptions{Policy: risky, Confirm: time.Minute})
				_, backErr := i.Rollback(1, "test")
				return errors.Join(err, backErr)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newStreamBench(t)
			b.attach(datapath.ModeNative, nil)
			b.apply(plainPolicy)
			b.apply(calmPolicy)
			leave(b, parsePolicy(t, riskyPolicy))
			b.change(func(i *datapath.Instance) error {
				kept, err := i.Kept()
				for _, k := range kept {
					if k.Policy.Equal(parsePolicy(t, riskyPolicy)) {
						t.Errorf("generation %d, which did not hold, is kept to go back to", k.Generation)
					}
				}
				back, backErr := i.Rollback(1, "test")
				if backErr == nil && !back.Equal(parsePolicy(t, plainPolicy)) {
					t.Errorf("rolled back to\n%s", back.YAML())
				}
				return errors.Join(err, backErr)
			})
		})
	}
}
