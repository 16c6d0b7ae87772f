// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/policygen"
	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/report"
)

// policiesVariable of the environment says how many random policies go through the kernel.
const policiesVariable = "SYNWARD_TEST_POLICIES"

// taken is what this data path takes of what a policy file may say.
func taken() policygen.Words {
	return policygen.Words{
		Kinds: []policy.Kind{policy.KindNew, policy.KindPackets, policy.KindBytesIn},
		Overs: []policy.Over{policy.OverDrop, policy.OverReset, policy.OverObserve, policy.OverChallenge},
	}
}

// What the maps hold of a random policy is what `synward policy` shows. What that writes is no other policy, so
// `apply --diff` has nothing to say and `apply` nothing to do; and put in force all the same it changes nothing
// that a packet or a level could meet.
func TestRandomPoliciesAreShownAsTheyAreHeld(t *testing.T) {
	i := datapath.Unattached(t)
	policies, limits := 0, 0
	checkPolicies(t, func(t *rapid.T) {
		p := taken().Policy(t)
		p.Normalize()
		shown := putInForce(t, i, p)
		if !shown.Policy.Equal(p) {
			t.Fatalf("applied and shown:\n%s\n%s", p.YAML(), shown.Policy.YAML())
		}
		placed := placedNow(t, i)
		again := readAsFile(t, shown)
		if diff := policy.Diff(shown.Policy, again); len(diff) > 0 || !again.Equal(shown.Policy) {
			t.Fatalf("apply --diff says %v of\n%s", diff, p.YAML())
		}
		putInForce(t, i, again)
		if now := placedNow(t, i); now != placed {
			t.Fatalf("%s\napplied again becomes\n%s\nby\n%s", placed, now, p.YAML())
		}
		policies++
		limits += strings.Count(placed, "\nlimit ")
	})
	t.Logf("%d policies with %d limits", policies, limits)
	if limits < policies/4 {
		t.Error("too few limits to show anything")
	}
}

// checkPolicies draws as many as policiesVariable says; by default what takes some seconds.
func checkPolicies(t *testing.T, check func(*rapid.T)) {
	t.Helper()
	datapath.Seed(t)
	count := "200"
	if os.Getenv("SYNWARD_VM") != "" {
		count = "20"
	}
	if text := os.Getenv(policiesVariable); text != "" {
		count = text
	}
	before := flag.Lookup("rapid.checks").Value.String()
	if err := flag.Set("rapid.checks", count); err != nil {
		t.Fatalf("%s=%s: %v", policiesVariable, count, err)
	}
	defer func() {
		if err := flag.Set("rapid.checks", before); err != nil {
			t.Error(err)
		}
	}()
	rapid.Check(t, check)
}

// putInForce applies a policy, wants the maps to hold what is shown then, and returns that.
func putInForce(t *rapid.T, i *datapath.Instance, p *policy.Policy) datapath.Policy {
	if err := i.Apply(datapath.ApplyOptions{Policy: p, By: "a test"}); err != nil {
		t.Fatalf("%v\n%s", err, p.YAML())
	}
	shown, err := i.Policy()
	if err != nil {
		t.Fatal(err)
	}
	differences, err := i.Held(shown.Policy)
	if err != nil {
		t.Fatal(err)
	}
	if len(differences) > 0 {
		t.Fatalf("%s\n%s", strings.Join(differences, "\n"), p.YAML())
	}
	return shown
}

// readAsFile is the file that `synward policy` writes, read again.
func readAsFile(t *rapid.T, shown datapath.Policy) *policy.Policy {
	var file bytes.Buffer
	if err := (report.PolicyText{Policy: shown}).YAML(&file); err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse("policy.yaml", file.Bytes(), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, file.Bytes())
	}
	return p
}

func placedNow(t *rapid.T, i *datapath.Instance) string {
	placed, err := i.Placed()
	if err != nil {
		t.Fatal(err)
	}
	return placed
}
