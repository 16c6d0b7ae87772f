// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/synward/synward/scripts/package/examples"
)

// TestExamplePolicies puts each policy that the packages bring along in force on a real interface.
func TestExamplePolicies(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces and loads BPF programs: run it as root")
	}
	names, err := fs.Glob(examples.Files(), "*.yaml")
	if err != nil || len(names) != 5 {
		t.Fatalf("found the examples %q, %v; want 5", names, err)
	}
	dir := t.TempDir()
	for _, name := range names {
		text, err := fs.ReadFile(examples.Files(), name)
		if err != nil {
			t.Fatal(err)
		}
		script := "server 0 synward attach $SERVER_IF -f $EXAMPLE\nclient 0 dial $SERVER_IP4:443 3\n" +
			"server 0 synward status\nstdout 'flowing'\nserver 0 synward policy\ncp stdout again.yaml\n" +
			"server 0 synward apply -f again.yaml\nstderr '^already so, nothing changed$'\n" +
			"server 0 synward apply -f $EXAMPLE --diff\n! stdout .\nserver 0 synward services\nserver 0 synward detach --all\n"
		base := filepath.Join(dir, name[:len(name)-len(filepath.Ext(name))])
		if err := errors.Join(os.WriteFile(base+".yaml", text, 0o600), os.WriteFile(base+".txtar", []byte(script), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	setup := new(worlds)
	setup.prefix = "examples-"
	testscript.Run(t, testscript.Params{
		Dir: dir, Cmds: scriptCommands(), RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("EXAMPLE", filepath.Join(dir, filepath.Base(e.WorkDir)[len("script-"):]+".yaml"))
			return setup.setup(e)
		},
	})
}
