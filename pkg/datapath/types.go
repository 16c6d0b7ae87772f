// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"time"

	"github.com/synward/synward/pkg/policy"
)

// DefaultPinDir is where an instance lives unless it is told otherwise.
const DefaultPinDir = "/sys/fs/bpf/synward"

// DefaultService is the name of the one service there is without a policy file: all TCP ports.
const DefaultService = "default"

// Mode is how a program is attached to an interface.
type Mode string

// The modes, in the order that ModeAuto tries them.
const (
	ModeAuto    Mode = "auto"
	ModeNative  Mode = "native"
	ModeTC      Mode = "tc"
	ModeGeneric Mode = "generic"
)

// Traffic says whether what an interface receives is what its program judges.
type Traffic string

// TrafficUnknown stands for an interface whose counters cannot be reached.
const (
	TrafficFlowing Traffic = "flowing"
	TrafficPartial Traffic = "partial"
	TrafficNone    Traffic = "none"
	TrafficUnknown Traffic = "unknown"
)

// Interface is one attached interface as it is now.
type Interface struct {
	Name    string
	Ifindex int
	// Netns names the network namespace if it is not the caller's: a name of /run/netns, or
	// cookie:N where it has none. Empty for the caller's own.
	Netns string
	Mode  Mode
	// Armed: the live link runs our program, and that program answered a self test just now.
	Armed bool
	// Why says what is wrong when Armed is false or Traffic is not flowing, and how to mend it.
	Why     string
	Traffic Traffic
	// Received and Judged are packets since the interface was attached.
	Received, Judged uint64
	AttachedAt       time.Time
}

// AttachOptions says what to attach where.
type AttachOptions struct {
	PinDir    string
	Interface string
	Mode      Mode
	// Limit of new connections per source for DefaultService. Nil leaves what is in force; on the
	// first attach that means that connections are counted and none is limited.
	Limit *policy.NewLimit
}

// Attempt is one mode that was tried and why it was not taken.
type Attempt struct {
	Mode Mode
	Err  error
}

// AttachResult says what was done.
type AttachResult struct {
	Interface Interface
	// Unchanged: it was attached like this before.
	Unchanged bool
	// Mended: a stale link of an interface that had vanished was replaced.
	Mended bool
	// Refused are the modes that were tried before the one taken.
	Refused []Attempt
	// Warnings are things that may surprise, each one line that says what to do.
	Warnings []string
}

// Counter counts packets on the wire and their bytes, link header included.
type Counter struct {
	Packets, Bytes uint64
}

// Total is what was counted for one reason: all of it, and the packets by action name.
type Total struct {
	Reason string
	Counter
	Actions map[string]uint64
}

// Policy is what is in force.
type Policy struct {
	Generation uint32
	// Mode is enforce or observe.
	Mode string
	// Limit is nil where nothing is limited.
	Limit *policy.NewLimit
	// Table is where the limit's levels are kept; nil without a limit.
	Table *Table
}

// Table is a limit's part of the meters: how large it is, and up to how many new sources a second it
// refuses nobody for want of room. Past that on_table_full decides.
type Table struct {
	Bytes uint64
	// Singles is for sources that make one connection each, Bursts for those that use up their burst.
	Singles, Bursts uint64
}

// Source is what the ledger knows of one source and service.
type Source struct {
	Prefix            netip.Prefix
	Service           string
	Admitted, Refused uint64
	FirstSeen         time.Time
	LastSeen          time.Time
	// Sampled: a flood was on, and the counts are estimates from a weighted sample.
	Sampled bool
}

// List names one of the two lists.
type List int

// The lists.
const (
	Allow List = iota
	Block
)

// Scope is which packets of a source a block entry covers.
type Scope string

// The scopes.
const (
	ScopeAll Scope = "all"
	ScopeNew Scope = "new"
)

// Entry is one prefix of a list.
type Entry struct {
	Prefix netip.Prefix
	Scope  Scope
	// Expires is zero for never.
	Expires time.Time
	Created time.Time
	// Origin is operator for what was typed.
	Origin string
	Reason string
	By     string
	Hits   uint64
}

// Verdict is what would happen to the next new connection of a source.
type Verdict struct {
	// Verdict is pass or drop.
	Verdict string
	// Reason is a name of the reasons table.
	Reason string
	// Until is when it ends by itself, zero if it does not.
	Until time.Time
	// Entry is the list entry that decides, if one does.
	Entry *Entry
	// Left is how many new connections would be admitted at this instant, where a limit decides.
	Left uint64
}

// Finding is one line of a check of the kernel or an interface.
type Finding struct {
	Name   string
	OK     bool
	Detail string
	// Fix says what to do where OK is false.
	Fix string
}
