// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
)

func newBlockCmd(e *env) *cobra.Command {
	l := list{env: e, id: datapath.Block, name: "block", title: "block list"}
	return l.command("Drop all packets of sources, or only their new connections")
}
