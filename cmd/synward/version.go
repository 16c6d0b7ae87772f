// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/report"
)

// version is set by the linker, with -X main.version=v1.2.3.
var version string

func newVersionCmd(e *env) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use: "version", Short: "Say which synward this is", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := report.Version{Version: buildVersion(), Go: runtime.Version(), Arch: runtime.GOARCH}
			if output == formatJSON {
				return v.JSON(e.stdout)
			}
			return v.Text(e.stdout)
		},
	}
	outputFlag(cmd, &output, formatText, formatJSON)
	return cmd
}

// buildVersion is what the linker was told, else what the Go command noted down.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if version != "" || !ok {
		return cmp.Or(version, "unknown")
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	const short = 12
	revision := settings["vcs.revision"]
	if revision == "" {
		return "devel"
	}
	text := fmt.Sprintf("devel-%s", revision[:min(short, len(revision))])
	if settings["vcs.modified"] == "true" {
		text += "-dirty"
	}
	return text
}
