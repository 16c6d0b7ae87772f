// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
)

func newAllowCmd(e *env) *cobra.Command {
	l := list{env: e, id: datapath.Allow, name: "allow", title: "allow list"}
	cmd := l.command("Let sources pass, and count against no limit; allow wins over block")
	cmd.Aliases = []string{"whitelist"}
	return cmd
}
