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
	// Unconfirmed: it was attached for a time that waits for Confirm. It refuses for Left, then nothing.
	Unconfirmed bool
	Left        time.Duration
	// Received and Judged are packets since the interface was attached.
	Received, Judged uint64
	AttachedAt       time.Time
}

// AttachOptions says what to attach where.
type AttachOptions struct {
	PinDir    string
	Interface string
	Mode      Mode
	// Policy to put in force with it. Nil leaves what is in force; on the first attach that means that
	// connections are counted and none is limited.
	Policy *policy.Policy
	// Limit of new connections per source for DefaultService, on top of the policy. Nil changes nothing.
	Limit *policy.NewLimit
	// Concurrent is how many connections one source may have open at DefaultService, on top of the policy. Nil changes
	// nothing.
	Concurrent *uint64
	// Confirm, if above zero, is how long this attachment refuses anything unless Confirm is called.
	Confirm time.Duration
	// By is who attaches, kept for people.
	By string
	// Keeper keeps what is attached over a reboot; nil: nobody does.
	Keeper Keeper
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
	Generation uint16
	// Mode is enforce or observe.
	Mode string
	// Policy is what the operator asked for.
	Policy *policy.Policy
	// Tables are where its limits keep their levels, the regions of the meters.
	Tables []Table
	// Pending is set where a rollback will come unless somebody confirms.
	Pending *Pending
	// Uncounted are connections that limits of concurrent ones should have counted, and for which there was no room.
	Uncounted uint64
	// Unbanned are bans that were due and for which there was no room.
	Unbanned uint64
	// ConnTrouble is why concurrent connections are not counted though a limit asks for it; empty if all is well.
	ConnTrouble string
	// Unanswered are interfaces where challenges are not sent though a limit asks for it.
	Unanswered []Unanswered
}

// Unanswered is an interface in whose network namespace a setting is not as challenges need it.
type Unanswered struct {
	Interface string
	// Netns is the name of its namespace, empty for the caller's.
	Netns string
	// Sysctl has the value Is and should have Needs. Where Merely is set, challenges are sent all the same, without
	// what the setting is for.
	Sysctl, Is, Needs string
	Merely            string
}

// Pending is a policy that waits for its confirmation.
type Pending struct {
	By   string
	Left time.Duration
	// Fallback is the generation that comes back.
	Fallback uint16
}

// Table is a region of the meters: which limits lie in it, how large it is, and up to how many new sources
// a second it refuses nobody for want of room. Past that on_table_full decides.
type Table struct {
	Limits []string
	Bytes  uint64
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
	// Connections of the service are counted where a limit needs it: then Counted, and Established are open now.
	Counted     bool
	Established uint64
	// What is sent to a source is counted where a limit needs it: then Sends, and BytesOut is what has not drained yet.
	Sends    bool
	BytesOut uint64
	// Verified is when the source last completed a handshake with a socket here; zero: not known.
	Verified time.Time
}

// List names one of the two lists.
type List int

// The lists.
const (
	Allow List = iota
	Block
)

func (l List) String() string {
	if l == Allow {
		return "allow"
	}
	return "block"
}

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
	// Origin is operator for what was typed, policy for what the policy in force names, auto for a ban.
	Origin string
	Reason string
	By     string
	Hits   uint64
	// Ban is set for origin auto.
	Ban *Ban
}

// Ban is what an entry holds that the data path made itself.
type Ban struct {
	// Service is where the strikes came in; Only: that service alone is kept from the source.
	Service string
	Only    bool
	Strikes uint64
	// Repeats is how many bans count for how long the next one is, this one included. Each Fades without another, from
	// the end of this one on, takes one away.
	Repeats uint64
	Fades   time.Duration
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
	// Service is the one that the connection is for, empty where the lists decide or there is none.
	Service string
	// Limit is the limit that refuses, or the one that has the least room; nil where none applies. LimitName
	// is as in Table.
	Limit     *policy.Limit
	LimitName string
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
