// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"os"
	"testing"

	"github.com/synward/synward/pkg/policy"
)

// A network namespace that ended took its clsact filter with it (Linux before 6.6): policies can still be applied for
// the others, and `detach --all` removes it, as `status` says.
func TestBugVanishedNamespaceOfAFilter(t *testing.T) {
	dir := filterOfVanishedNamespace(t, 0)
	i, err := OpenForChange(string(dir))
	must(t, err)
	p := &policy.Policy{Services: []policy.Service{listening("web", policy.TCP, 443, 443)}}
	p.Normalize()
	if err := i.Apply(ApplyOptions{Policy: p}); err != nil {
		t.Errorf("apply: %v", err)
	}
	must(t, i.Close())
	if _, err := DetachAll(string(dir)); err != nil {
		t.Errorf("detach --all: %v", err)
	}
}

// filterOfVanishedNamespace is a pin directory as such a filter leaves it, with what its program can do.
func filterOfVanishedNamespace(t *testing.T, features uint32) pinDir {
	t.Helper()
	l := newProgramLab(t, frozen{linkHeader: true})
	dir := pinDir(fmt.Sprintf("/sys/fs/bpf/synward-review-%d", os.Getpid()))
	must(t, dir.checkFS())
	must(t, dir.make())
	t.Cleanup(func() { must(t, dir.remove()) })
	must(t, l.maps.pin(dir))
	key := pinKey{cookie: 1 << 62, ifindex: 7, hook: hookClsact}
	must(t, l.program(hookClsact).Pin(dir.prog(key)))
	must(t, l.maps.Interfaces.Put(uint32(0), limiterInterface{NetnsCookie: key.cookie, Ifindex: 7, Hook: ModeTC.code(), Features: features}))
	return dir
}

// An error of Apply leaves the old policy in force, whole: what comes behind the flip is no error of it.
func TestBugApplyFailsAndTheNewPolicyIsInForce(t *testing.T) {
	dir := filterOfVanishedNamespace(t, uint32(limiterFeatureFEATURE_ALL))
	i, err := OpenForChange(string(dir))
	must(t, err)
	defer i.Close()
	err = i.Apply(ApplyOptions{Policy: reviewPolicy(99)})
	p, readErr := i.PolicyInForce()
	must(t, readErr)
	if inForce := len(p.Services[0].Limits) == 1; err != nil && inForce {
		t.Errorf("apply failed (%v), and its policy is in force", err)
	}
}
