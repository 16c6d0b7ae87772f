// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// kernel is what package datapath does for the commands; a test puts another in its place.
type kernel interface {
	Attach(opts datapath.AttachOptions) (*datapath.AttachResult, error)
	Detach(pinDir, ifname string) (found bool, err error)
	DetachAll(pinDir string) (names []string, err error)
	Upgrade(pinDir string) (*datapath.Upgraded, error)
	Doctor(pinDir, ifname string) []datapath.Finding
	Open(pinDir string) (instance, error)
	OpenForChange(pinDir string) (instance, error)
	Operators() ([]datapath.Operator, error)
}

// instance is the part of datapath.Instance that commands use.
type instance interface {
	Close() error
	Interfaces() ([]datapath.Interface, error)
	Policy() (datapath.Policy, error)
	Apply(o datapath.ApplyOptions) error
	Confirm() (found bool, err error)
	Rollback(n int, by string) (*policy.Policy, error)
	Kept() ([]datapath.Applied, error)
	Services() ([]datapath.ServiceState, error)
	Totals() ([]datapath.Total, error)
	Sources() ([]datapath.Source, error)
	Entries(list datapath.List) ([]datapath.Entry, error)
	Add(list datapath.List, entries []datapath.Entry) error
	Remove(list datapath.List, prefixes []netip.Prefix) (removed int, err error)
	Forget(addr netip.Addr) error
	CheckAt(addr netip.Addr, local netip.AddrPort) (datapath.Verdict, error)
	Covering(list datapath.List, addr netip.Addr) (*datapath.Entry, error)
	Listed(list datapath.List, prefix netip.Prefix) (*datapath.Entry, error)
	OperatorEntry(list datapath.List, addr netip.Addr) (*datapath.Entry, error)
}

// linux is the kernel that this process runs on.
type linux struct{}

func (linux) Attach(opts datapath.AttachOptions) (*datapath.AttachResult, error) {
	return datapath.Attach(opts)
}

func (linux) Detach(pinDir, ifname string) (bool, error) { return datapath.Detach(pinDir, ifname) }
func (linux) DetachAll(pinDir string) ([]string, error)  { return datapath.DetachAll(pinDir) }
func (linux) Upgrade(pinDir string) (*datapath.Upgraded, error) {
	return datapath.Upgrade(pinDir)
}

func (linux) Doctor(dir, ifname string) []datapath.Finding { return datapath.Doctor(dir, ifname) }
func (linux) Open(pinDir string) (instance, error)         { return opened(datapath.Open(pinDir)) }
func (linux) OpenForChange(dir string) (instance, error)   { return opened(datapath.OpenForChange(dir)) }
func (linux) Operators() ([]datapath.Operator, error)      { return datapath.Operators() }

// opened keeps a nil pointer from becoming an instance that is not nil.
func opened(i *datapath.Instance, err error) (instance, error) {
	if err != nil {
		return nil, err
	}
	return i, nil
}
