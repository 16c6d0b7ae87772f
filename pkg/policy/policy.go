// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"time"
)

// Most of what a policy may hold; the data path's tables are made for them.
const (
	MaxServices      = 256
	MaxListens       = 1024
	MaxServiceLimits = 8
	MaxGlobalLimits  = 4
	MaxSets          = 64
	// MaxMemberLists bounds the different lists of sources that from, except and the allow of
	// services name.
	MaxMemberLists = 64
)

// FullPacket is the size in bytes of a full packet of a usual Ethernet, with its link header.
const FullPacket = 1514

// Policy is all that an operator asks for: what a policy file says, with its files read and its
// defaults filled in. What Parse returns is normal, see Normalize; two policies that mean the same are
// Equal.
type Policy struct {
	Mode          Mode
	OnTableFull   OnTableFull
	StrictParsing bool
	// Source is what one source is where a limit does not say: prefix lengths by family.
	Source PrefixLengths
	// Sets are sorted by name.
	Sets []Set
	// Services are in the order of the file, which means nothing. Of two that listen on one packet's
	// address, one is more specific.
	Services []Service
	Global   Global
	// Allow and Block are the lists of the policy, beside those of the operator.
	Allow, Block Members
}

// Mode is whether verdicts are carried out.
type Mode string

// The modes. Observe counts every verdict and drops nothing.
const (
	Enforce Mode = "enforce"
	Observe Mode = "observe"
)

// OnTableFull is what happens to a newcomer that meets a full bucket of the meters.
type OnTableFull string

// The ways out of a full table. Challenge is pass where nothing can be challenged.
const (
	TableFullChallenge OnTableFull = "challenge"
	TableFullPass      OnTableFull = "pass"
	TableFullDrop      OnTableFull = "drop"
)

// PrefixLengths say how many leading bits of an address make one source or destination: 1 to 32, 1 to 128.
type PrefixLengths struct {
	IPv4, IPv6 int
}

// Set is a named set of prefixes, sorted, masked, none inside another.
type Set struct {
	Name     string
	Prefixes []netip.Prefix
}

// Members are named sets and prefixes written in place. Sets are sorted by name; prefixes as in a Set.
type Members struct {
	Sets     []string
	Prefixes []netip.Prefix
}

// Service is what is protected: where it listens, and its limits.
type Service struct {
	Name   string
	Listen []Listen
	// Allow: sources that pass this service without being counted.
	Allow  Members
	Limits []Limit
}

// Proto is a protocol to listen on. QUIC is UDP whose connections can be told.
type Proto string

// The protocols.
const (
	TCP  Proto = "tcp"
	UDP  Proto = "udp"
	QUIC Proto = "quic"
)

// Listen is one address of a service. Ports run from First to Last; 0 to 65535 is any. Local is the
// host's own address or network; the zero Prefix is any of both families.
type Listen struct {
	Proto       Proto
	First, Last uint16
	Local       netip.Prefix
}

// Global are the limits across all services. A packet of no service meets none of them.
type Global struct {
	Limits []Limit
}

// Kind is what a limit counts.
type Kind string

// The kinds. Only New, Packets and BytesIn are counted by the meters.
const (
	KindNew        Kind = "new"
	KindConcurrent Kind = "concurrent"
	KindPackets    Kind = "packets"
	KindBytesIn    Kind = "bytes_in"
	KindBytesOut   Kind = "bytes_out"
)

// Per is whose count it is.
type Per string

// Whose count a limit keeps.
const (
	PerSource            Per = "source"
	PerDestination       Per = "destination"
	PerSourceDestination Per = "source+destination"
	PerService           Per = "service"
)

// Over is what happens to what is over a limit.
type Over string

// What happens over a limit.
const (
	OverDrop      Over = "drop"
	OverReset     Over = "reset"
	OverChallenge Over = "challenge"
	OverObserve   Over = "observe"
)

// Limit is one limit: what is counted, per what, how much, and what happens over it.
type Limit struct {
	Kind Kind
	Per  Per
	// Prefix is how much of an address makes one count: of the destination for PerDestination, else of
	// the source; a destination beside a source counts whole. Zero for PerService.
	Prefix PrefixLengths
	// Rate and Burst are for all kinds but KindConcurrent, in connections, packets or bytes.
	Rate  Rate
	Burst uint64
	// Concurrent is for KindConcurrent.
	Concurrent uint64
	// Strict: at most Rate.Count in any window of Rate.Period, burst included.
	Strict bool
	// CountRejected: what is refused is charged too, up to a whole burst.
	CountRejected bool
	Over          Over
	// From, unless empty, narrows the limit to these sources; Except takes sources out, also of From.
	From, Except Members
	// Exempt is ExemptVerified or empty.
	Exempt string
	Ban    *Ban
}

// ExemptVerified exempts sources that completed a handshake here of late.
const ExemptVerified = "verified"

// Ban says when being over a limit puts a source on the block list, and for how long.
type Ban struct {
	// After is how many strikes within Within make a ban.
	After  uint64
	Within time.Duration
	For    time.Duration
	// Growth is the factor of each repeat, at least 1, in hundredths; Max the longest ban.
	Growth float64
	Max    time.Duration
	Scope  BanScope
	// Prefix is how much of the address is banned.
	Prefix PrefixLengths
}

// BanScope is what a ban keeps a source from.
type BanScope string

// The scopes of a ban.
const (
	BanGlobal  BanScope = "global"
	BanService BanScope = "service"
)
