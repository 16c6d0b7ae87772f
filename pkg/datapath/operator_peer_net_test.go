// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/synward/synward/pkg/internal/testenv"
)

func TestSSHPeer(t *testing.T) {
	b := newOperatorBench(t)
	testenv.Tool(t, "sudo")
	helper := strings.Replace(b.helper, "=print", "=peer", 1)
	// A lie is not believed where a connection is found.
	lie := "env SSH_CONNECTION='192.0.2.99 1 192.0.2.1 22' "
	for _, command := range []string{helper, "sudo -n " + helper, lie + helper, "env -u SSH_CONNECTION sudo -n " + helper} {
		got := strings.TrimSpace(string(b.run("root@10.77.0.1", command)))
		if !strings.HasPrefix(got, "10.77.0.2:") {
			t.Errorf("%s: %q, want 10.77.0.2 and a port", command, got)
		}
	}
	named := "SSH_CONNECTION=::ffff:192.0.2.99 50432 192.0.2.1 22"
	cmd := b.Server.Command(b.self, "-test.run=^TestOperatorHelper$")
	cmd.Env = append(cmd.Environ(), operatorVariable+"=peer", named)
	if out, err := cmd.Output(); err != nil || string(out) != fmt.Sprintln("192.0.2.99:50432") {
		t.Errorf("with %s and no connection: %q, %v", named, out, err)
	}
}
