// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
)

func newUpgradeCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "upgrade",
		Short: "Give every interface the programs of this version, without a gap",
		Long: "Give every interface, in whatever network namespace, the programs of this version of synward, without a\n" +
			"gap. Where another version made the maps, lists, policies, counters and sources are carried over into new\n" +
			"ones, in either direction; each source then has one extra burst. What cannot be carried over is said, and\n" +
			"nothing is touched (exit code 5). It finishes an upgrade that was killed, and may be typed again.",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: e.asRoot(func(*cobra.Command, []string) error {
			done, err := e.kernel.Upgrade(e.pinDir)
			if err != nil {
				return err
			}
			return tellUpgraded(e, done)
		}),
	}
}

// tellUpgraded says what was done. Partly done is what left an interface without our program.
func tellUpgraded(e *env, done *datapath.Upgraded) error {
	if done.Finished {
		e.say("an upgrade that was killed is finished")
	}
	carried := done.From != done.To
	if carried {
		e.say("carried over from ABI %d to ABI %d: lists, policies, counters, sources", done.From, done.To)
		e.say("levels begin afresh: each source has one extra burst, and QUIC connections of the last ten seconds count again")
	}
	var err error
	for _, i := range done.Interfaces {
		switch {
		case i.Why != "":
			e.say("%s: left as it is: %s", i.Name, i.Why)
			err = exitError{exitPartly}
		case i.Swapped:
			e.say("%s: runs the program of this version now", i.Name)
		default:
			e.say("%s: unchanged, it runs the program of this version", i.Name)
		}
	}
	return err
}
