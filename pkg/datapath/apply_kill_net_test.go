// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/synward/synward/pkg/datapath"
)

// killedDuel is a duel whose policies are applied by processes that are killed.
type killedDuel struct {
	*duel
	texts    [2]string
	sent     uint64
	outcomes map[string]int
}

func newKilledDuel(t *testing.T, mode datapath.Mode) *killedDuel {
	t.Helper()
	texts := [2]string{firstPolicy, withMore(secondPolicy)}
	return &killedDuel{duel: newDuel(t, mode, texts[:]...), texts: texts, outcomes: map[string]int{}}
}

// duration is how long a whole apply takes as a process.
func (d *killedDuel) duration() time.Duration {
	d.t.Helper()
	begin := time.Now()
	for n := range d.texts {
		if err := d.command(applyOrder{Policy: d.texts[1-n], By: by(1 - n)}).Run(); err != nil {
			d.t.Fatalf("apply: %v", err)
		}
	}
	return time.Since(begin) / 2
}

func by(n int) string { return fmt.Sprintf("policy %d", n+1) }

// killAt starts to apply policy n and kills that after so long. It reports whether it was still at work.
func (d *killedDuel) killAt(n int, after time.Duration) (killed bool) {
	d.t.Helper()
	cmd := d.command(applyOrder{Policy: d.texts[n], By: by(n)})
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.Exited()) {
		d.t.Fatalf("apply failed by itself: %v", err)
	}
	return err != nil
}

// inForce is which of the two policies the instance says is in force. It is armed, and shows nothing of the other.
func (d *killedDuel) inForce() (n int) {
	d.t.Helper()
	d.read(func(i *datapath.Instance) error {
		p, err := i.Policy()
		services, servicesErr := i.Services()
		all, interfacesErr := i.Interfaces()
		if err := errors.Join(err, servicesErr, interfacesErr); err != nil {
			return err
		}
		if n = slices.IndexFunc(d.policies[:], p.Policy.Equal); n < 0 {
			return fmt.Errorf("in force is neither policy: %s", p.Policy.YAML())
		}
		if len(all) != 1 || !all[0].Armed || p.Pending != nil {
			d.t.Errorf("half-made: %+v, %+v", all, p.Pending)
		}
		for at, s := range d.policies[n].Services {
			if services[at].Name != s.Name || len(services[at].Limits) != len(s.Limits) {
				d.t.Errorf("service %d of policy %d is shown as %+v", at, n+1, services[at])
			}
		}
		return d.listed(i, n)
	})
	return n
}

// listed wants the lists to hold what policy n names and nothing else.
func (d *killedDuel) listed(i *datapath.Instance, n int) error {
	for list, want := range map[datapath.List][]netip.Prefix{
		datapath.Allow: d.policies[n].Allow.Prefixes, datapath.Block: d.policies[n].Block.Prefixes,
	} {
		entries, err := i.Entries(list)
		if err != nil {
			return err
		}
		var got []netip.Prefix
		for _, e := range entries {
			got = append(got, e.Prefix)
			if e.Origin != "policy" {
				d.t.Errorf("%s %s is shown as of %s", list, e.Prefix, e.Origin)
			}
		}
		if !slices.Equal(got, want) {
			d.t.Errorf("under policy %d the %s list is %v, want %v", n+1, list, got, want)
		}
	}
	return nil
}

// fire runs a stream while fn does, and wants no packet of it lost, unjudged or judged by a mix.
func (d *killedDuel) fire(fn func()) {
	d.t.Helper()
	before := d.tally()
	s := d.startStream(d.frames)
	fn()
	sent := s.stop()
	d.mustBePure(d.since(before, sent), 0, 0)
	d.sent += sent
}

// try kills an apply of policy n over old at a moment, looks at what is there, and applies for good.
func (d *killedDuel) try(n, old int, after time.Duration) {
	d.t.Helper()
	var killed bool
	d.fire(func() { killed = d.killAt(n, after) })
	now := d.inForce()
	d.mustBeWhole(now)
	d.mustNameSources(now)
	if now != n && (!killed || now != old) {
		d.t.Errorf("apply of policy %d over %d (killed: %v) left policy %d", n+1, old+1, killed, now+1)
	}
	d.outcomes[fmt.Sprintf("killed %v, took effect %v", killed, now == n)]++
	d.fire(func() { d.apply(n) })
	d.mustBeWhole(n)
	d.mustLeaveNothing()
}

// mustNameSources wants the ledger to name the services of policy n for what it judged just now.
func (d *killedDuel) mustNameSources(n int) {
	d.t.Helper()
	want := map[string]string{"198.18.30.1": "both", "198.18.40.1": "third", "198.18.10.5": []string{"near", "both"}[n]}
	d.read(func(i *datapath.Instance) error {
		all, err := i.Sources()
		newest := map[string]datapath.Source{}
		for _, s := range all {
			addr := s.Prefix.Addr().String()
			if s.LastSeen.After(newest[addr].LastSeen) {
				newest[addr] = s
			}
		}
		for addr, service := range want {
			if newest[addr].Service != service {
				d.t.Errorf("under policy %d the ledger has %s under %q, want %q", n+1, addr, newest[addr].Service, service)
			}
		}
		return err
	})
}

// A process that applies is killed at any moment: one policy or the other is in force, whole, all traffic is
// judged all the time, and the next apply finds nothing in its way and leaves nothing behind.
func TestKillApply(t *testing.T) {
	for _, mode := range []datapath.Mode{datapath.ModeNative, datapath.ModeTC} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			d := newKilledDuel(t, mode)
			d.useUpThird()
			whole := d.duration()
			n := d.inForce()
			randomKills(t, whole, func(after time.Duration) {
				d.try(1-n, n, after)
				n = 1 - n
			})
			d.mustHaveJudgedAll()
			t.Logf("%d packets meanwhile; %v", d.sent, d.outcomes)
		})
	}
}
