// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// forceFlag adds --force.
func forceFlag(cmd *cobra.Command, force *bool) {
	cmd.Flags().BoolVar(force, "force", false, "go on even if it locks out somebody who is logged in by SSH")
}

// forceBlockFlag adds the --force of what may block the host itself too.
func forceBlockFlag(cmd *cobra.Command, force *bool) {
	cmd.Flags().BoolVar(force, "force", false, "go on even if it blocks this host, or somebody who is logged in by SSH")
}

// operators are those who are logged in by SSH in this network namespace. Where some cannot be found the
// command goes on for the others: most hosts that cannot be looked at whole run no sshd at all.
func (e *env) operators() []datapath.Operator {
	ops, err := e.kernel.Operators()
	if err != nil {
		e.say("warning: not all operators could be found, and who is missing is not kept from being locked out: %s", oneLine(err))
	}
	return slices.DeleteFunc(slices.Clone(ops), func(op datapath.Operator) bool { return op.Netns != "" })
}

// lockout is a Lockout whose way on is meant for this instance.
type lockout struct {
	datapath.Lockout
	way string
}

func (l lockout) Error() string {
	return strings.Replace(l.Lockout.Error(), "first: synward ", "first: "+l.way+" ", 1)
}

// wayOn has the commands that a Lockout proposes begin with way.
func wayOn(err error, way string) error {
	var l datapath.Lockout
	var named lockout
	switch {
	case errors.As(err, &named):
		return lockout{named.Lockout, way}
	case errors.As(err, &l):
		return lockout{l, way}
	}
	return err
}

// guardPolicy is a Lockout if somebody who is logged in could not log in again under a policy. Only what
// operators allowed themselves counts, for what the policy in force allows goes with it. i is nil where
// nothing is attached.
func (e *env) guardPolicy(i instance, next *policy.Policy) error {
	return wayOn(e.guard(i, e.operators(), next, func(addr netip.Addr) (bool, error) {
		if i == nil {
			return false, nil
		}
		entry, err := i.OperatorEntry(datapath.Allow, addr)
		return entry != nil, err
	}), e.program())
}

// guard holds operators against a policy and the block list.
func (e *env) guard(i instance, ops []datapath.Operator, p *policy.Policy, allowed func(netip.Addr) (bool, error)) error {
	for _, op := range ops {
		addr := op.Peer.Addr()
		if ok, err := allowed(addr); err != nil || ok {
			if err != nil {
				return err
			}
			continue
		}
		one := []datapath.Operator{op}
		if err := datapath.GuardPolicy(one, p, nil); err != nil {
			return err
		}
		if _, ok := p.Covers(p.Allow, addr); ok || p.Mode == policy.Observe || i == nil {
			continue
		}
		entry, err := i.OperatorEntry(datapath.Block, addr)
		if err != nil {
			return err
		}
		if entry != nil {
			return datapath.GuardBlock(one, []netip.Prefix{entry.Prefix}, nil)
		}
	}
	return nil
}

// protected are whom no block may cover, but for those who are allowed: allow wins. Where some cannot be found the
// command goes on for the others.
func (e *env) protected(i instance) (out []datapath.Protected, err error) {
	all, findErr := i.Protected()
	if findErr != nil {
		e.say("warning: not all whom no block may cover could be found, and who is missing is not kept from being blocked: %s", oneLine(findErr))
	}
	for _, one := range all {
		allowed, err := i.Covering(datapath.Allow, one.Addr())
		if err != nil {
			return nil, err
		}
		if allowed == nil {
			out = append(out, one)
		}
	}
	return out, nil
}

// guardBlock is ErrRefused if a block would cover the host itself, or somebody who is logged in in this network
// namespace, and nobody allowed them.
func (e *env) guardBlock(i instance, prefixes []netip.Prefix) error {
	all, err := e.protected(i)
	if err != nil {
		return err
	}
	for _, one := range all {
		n := slices.IndexFunc(prefixes, one.Overlaps)
		switch {
		case n < 0, one.Operator != nil && one.Operator.Netns != "":
		case one.Operator != nil:
			return wayOn(datapath.GuardBlock([]datapath.Operator{*one.Operator}, prefixes, nil), e.program())
		default:
			return fmt.Errorf("%w: this would block %s, %s: blocked by %s; go on with --force, or first: %s allow add %[2]s",
				datapath.ErrRefused, policy.FormatPrefix(one.Prefix), one.What, prefixes[n], e.program())
		}
	}
	return nil
}

// guardDisallow is a Lockout if somebody who is logged in needs one of the entries of the allow list that go.
func (e *env) guardDisallow(i instance, goes func(datapath.Entry) bool) error {
	ops := e.operators()
	if len(ops) == 0 {
		return nil
	}
	entries, err := i.Entries(datapath.Allow)
	if err != nil {
		return err
	}
	needs := func(op datapath.Operator) bool {
		return slices.ContainsFunc(entries, func(e datapath.Entry) bool { return e.Prefix.Contains(op.Peer.Addr()) && goes(e) })
	}
	ops = slices.DeleteFunc(ops, func(op datapath.Operator) bool { return !needs(op) })
	if len(ops) == 0 {
		return nil
	}
	p, err := i.Policy()
	if err != nil {
		return err
	}
	err = e.guard(i, ops, p.Policy, func(addr netip.Addr) (bool, error) {
		return slices.ContainsFunc(entries, func(entry datapath.Entry) bool {
			return !goes(entry) && entry.Prefix.Contains(addr)
		}), nil
	})
	var l datapath.Lockout
	if errors.As(err, &l) {
		return disallowed{l}
	}
	return err
}

// disallowed is a Lockout of somebody who is on the allow list: to put him there is no way on.
type disallowed struct{ datapath.Lockout }

func (d disallowed) Error() string {
	text, _, _ := strings.Cut(d.Lockout.Error(), "; go on with")
	return text + "; go on with --force"
}
