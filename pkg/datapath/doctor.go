// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// floor is the way out where a kernel lacks something.
const floor = "use Linux 6.1 or newer, or a distribution's kernel that has it"

// feature is one thing of the kernel that the data path needs or can use.
type feature struct {
	name string
	// probe tries it and changes nothing. detail says what was found, or else the error does;
	// ebpf.ErrNotSupported stands for a plain no.
	probe func() (detail string, err error)
	// need says who needs it where that is not plain, fix the way out; an empty fix is floor.
	need, fix string
}

// try runs the probe.
func (f feature) try() Finding {
	detail, err := f.probe()
	if err == nil {
		return Finding{Name: f.name, OK: true, Detail: detail}
	}
	detail = "could not be tried: " + err.Error()
	if errors.Is(err, ebpf.ErrNotSupported) {
		detail = "this kernel does not have it"
	}
	var known probeError
	if errors.As(err, &known) {
		detail = known.Error()
	}
	fix := f.fix
	if fix == "" {
		fix = floor
	}
	if f.need != "" {
		fix = f.need + ": " + fix
	}
	return Finding{Name: f.name, Detail: detail, Fix: fix}
}

// probeError is a probe's own words for what it found.
type probeError string

func (e probeError) Error() string { return string(e) }

// Doctor says what this kernel can do and, unless ifname is empty, what that interface of the
// caller's network namespace can: one finding a line, always in the same order. It tries features and
// trusts no version number, it attaches nothing and changes nothing. What is merely useful is OK when
// it is missing, and Detail says what is done without it.
func Doctor(dir, ifname string) []Finding {
	findings := []Finding{privilegeFeature().try()}
	if findings[0].OK {
		for _, f := range kernelFeatures() {
			findings = append(findings, f.try())
		}
	} else {
		findings[0].Detail += "; without that the kernel lets nothing else be tried"
	}
	findings = append(findings, bpffsFeature(pinDir(dir)).try())
	findings = append(findings, optionalFindings()...)
	if ifname != "" {
		findings = append(findings, interfaceFindings(ifname)...)
	}
	return findings
}

// RequireFeatures returns nil if this kernel has all that the data path needs, else an error that
// wraps ErrUnsupported and names the first thing missing and the way out. Where pins go is not its
// business. It takes a few milliseconds and changes nothing.
func RequireFeatures() error {
	return requireAll(append([]feature{privilegeFeature()}, kernelFeatures()...))
}

func requireAll(features []feature) error {
	for _, f := range features {
		if found := f.try(); !found.OK {
			return fail(ErrUnsupported, "%s: %s; %s", found.Name, found.Detail, found.Fix)
		}
	}
	return nil
}

func privilegeFeature() feature {
	return feature{
		name: "privileges", probe: probePrivileges,
		need: "programs and pins need them",
		fix:  "run as root (sudo), in a container with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
	}
}

// bpffsFeature wants the parent of a pin directory to be a BPF file system.
func bpffsFeature(dir pinDir) feature {
	return feature{
		name: "bpf file system", probe: func() (string, error) { return probeBPFFS(dir) },
		fix: "mount -t bpf bpf " + parentOf(dir),
	}
}

// kernelFeatures lists what is required, programs before what they use.
func kernelFeatures() []feature {
	var all []feature
	all = append(all, programFeatures()...)
	all = append(all, helperFeatures()...)
	all = append(all, mapFeatures()...)
	return append(all,
		feature{name: "xdp link", probe: plain(probeXDPLink), need: "XDP that outlives the command needs it"},
		feature{name: "netns cookie", probe: probeNetnsCookie, need: "the names of pins need it"},
	)
}

// probeNetnsCookie reads SO_NETNS_COOKIE (Linux 5.14).
func probeNetnsCookie() (string, error) {
	cookie, err := netnsCookie()
	if errors.Is(err, unix.ENOPROTOOPT) {
		return "", ebpf.ErrNotSupported
	}
	return fmt.Sprintf("this network namespace is %d", cookie), err
}

// plain is a probe that has nothing to say but yes.
func plain(probe func() error) func() (string, error) {
	return func() (string, error) { return "yes", probe() }
}
