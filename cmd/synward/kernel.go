// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/state"
)

// kernel is what package datapath does for the commands; a test puts another in its place. What is added to
// changer or writer is a change, and recorder must write it down.
type kernel interface {
	changer
	Doctor(pinDir, ifname string) []datapath.Finding
	Open(pinDir string) (instance, error)
	OpenForChange(pinDir string, keeper datapath.Keeper) (instance, error)
	Operators() ([]datapath.Operator, error)
	SSHPeer() netip.AddrPort
	CanCloseSockets() error
}

type changer interface {
	Attach(opts datapath.AttachOptions) (*datapath.AttachResult, error)
	Detach(opts datapath.DetachOptions) (datapath.Detached, error)
	Upgrade(pinDir string) (*datapath.Upgraded, error)
	Save(pinDir string, store *state.Store) error
	Restore(opts state.RestoreOptions, store *state.Store) ([]state.Restored, error)
	CloseSockets(chosen func(peer netip.Addr) bool) (datapath.ClosedSockets, error)
}

// instance is the part of datapath.Instance that commands use.
type instance interface {
	reader
	writer
}

type reader interface {
	Close() error
	Interfaces() ([]datapath.Interface, error)
	Generation() uint16
	Policy() (datapath.Policy, error)
	Kept() ([]datapath.Applied, error)
	Services() ([]datapath.ServiceState, error)
	Totals() ([]datapath.Total, error)
	Sources() ([]datapath.Source, error)
	Levels(source netip.Addr) ([]datapath.LimitLevel, error)
	OpenConns(chosen func(netip.Addr) bool) ([]datapath.OpenConn, error)
	Entries(list datapath.List) ([]datapath.Entry, error)
	Related(list datapath.List, prefixes []netip.Prefix) ([]datapath.Relation, error)
	Feeds() ([]datapath.Feed, error)
	Protected() ([]datapath.Protected, error)
	CheckAt(addr netip.Addr, local netip.AddrPort) (datapath.Verdict, error)
	Strikes(addr netip.Addr) (map[string]uint64, error)
	Covering(list datapath.List, addr netip.Addr) (*datapath.Entry, error)
	Listed(list datapath.List, prefix netip.Prefix) (*datapath.Entry, error)
	OperatorEntry(list datapath.List, addr netip.Addr) (*datapath.Entry, error)
}

type writer interface {
	Apply(o datapath.ApplyOptions) error
	Confirm() (found bool, err error)
	Rollback(n int, by string) (*policy.Policy, error)
	Add(list datapath.List, entries []datapath.Entry) error
	Remove(list datapath.List, prefixes []netip.Prefix) (removed int, err error)
	LiftBans() (lifted int, err error)
	LoadFeed(o datapath.FeedOptions) (datapath.FeedChange, error)
	RemoveFeed(name string) (entries int, found bool, err error)
	Forget(addr netip.Addr) error
	SetSysctls() ([]datapath.Unanswered, error)
}

// linux is the kernel that this process runs on.
type linux struct{}

func (linux) Attach(opts datapath.AttachOptions) (*datapath.AttachResult, error) {
	return datapath.Attach(opts)
}

func (linux) Detach(opts datapath.DetachOptions) (datapath.Detached, error) {
	return datapath.DetachKept(opts)
}

func (linux) Upgrade(pinDir string) (*datapath.Upgraded, error) {
	return datapath.Upgrade(pinDir)
}

func (linux) Doctor(dir, ifname string) []datapath.Finding { return datapath.Doctor(dir, ifname) }
func (linux) Open(pinDir string) (instance, error)         { return opened(datapath.Open(pinDir)) }
func (linux) Operators() ([]datapath.Operator, error)      { return datapath.Operators() }
func (linux) SSHPeer() netip.AddrPort                      { return datapath.SSHPeer() }

func (linux) CanCloseSockets() error { return datapath.CanCloseSockets() }

func (linux) CloseSockets(chosen func(peer netip.Addr) bool) (datapath.ClosedSockets, error) {
	return datapath.CloseSockets(chosen)
}

func (linux) OpenForChange(pinDir string, keeper datapath.Keeper) (instance, error) {
	i, err := datapath.OpenForChange(pinDir)
	if err == nil {
		i.KeepWith(keeper)
	}
	return opened(i, err)
}

func (linux) Save(pinDir string, store *state.Store) error {
	i, err := datapath.OpenForChange(pinDir)
	if err != nil {
		return err
	}
	return errors.Join(store.Save(i), i.Close())
}

func (linux) Restore(opts state.RestoreOptions, store *state.Store) ([]state.Restored, error) {
	return store.Restore(opts)
}

// opened keeps a nil pointer from becoming an instance that is not nil.
func opened(i *datapath.Instance, err error) (instance, error) {
	if err != nil {
		return nil, err
	}
	return i, nil
}
